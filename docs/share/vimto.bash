# bash completion for vimto; written by `vimto completion bash`.
_vimto() {
    local current=${COMP_WORDS[COMP_CWORD]} command="" words="" i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -kernel|-memory|-smp|-cpu|-user|-setup|-teardown|-share|-disk|-kernel-args|-sysctl|-accel|-qemu|-device|-nic|-qemu-args|-boot-timeout|-timeout|-stop-timeout|-cache-limit|-snapshot-limit|-link-limit|-pull|-pull-fresh|-image-limit|-insecure-registry|-net|-forward|-vmlinux|-cache-dir) [[ $command ]] || ((i++)) ;;
            -*) ;;
            *) [[ $command == *" "* ]] || command="$command${command:+ }${COMP_WORDS[i]}" ;;
        esac
    done
    if ((i > COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    case $command in
        "") words="go exec shell dlv gdb-kernel kernel config doctor setup-ci completion manual version help" ;;
        "go") words="test run" ;;
        "kernel") words="pull ls info lock rm prune" ;;
        "gdb-kernel") words="-break -from-boot -go-symbols -batch -fetch-debug -vmlinux -listen" ;;
        "kernel ls") words="-remote -match -json" ;;
        "kernel lock") words="-update" ;;
        "kernel prune") words="-all" ;;
        "config") words="-json -markdown" ;;
        "doctor") words="-json" ;;
        "setup-ci") words="-apply" ;;
    esac
    [[ $command || $current != -* ]] || words="-kernel -memory -smp -cpu -user -sudo -setup -teardown -share -disk -kernel-args -sysctl -accel -qemu -device -nic -qemu-args -boot-timeout -timeout -stop-timeout -snapshot -cache-limit -snapshot-limit -link-cache -link-limit -pull -pull-fresh -image-limit -insecure-registry -net -forward -gdb -vmlinux -cache-dir -v -verbose"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    case $command in
        exec) mapfile -t COMPREPLY < <(compgen -c -- "$current") ;;
        go*|exec*|dlv*|gdb-kernel*) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current") ;;
    esac
}
complete -o filenames -F _vimto vimto
