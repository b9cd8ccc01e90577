#compdef vimto
# Written by `vimto completion zsh`.

_vimto() {
    local state line
    local -a words_below
    _arguments -S \
        '*-kernel[the kernel to boot]:KERNEL:_files' \
        '*-memory[memory of the machine]:SIZE:_files' \
        '*-smp[number of CPUs]:N:_files' \
        '*-cpu[model of the CPUs, as QEMU'\''s -cpu]:MODEL:_files' \
        '*-user[user, by name or number, that the command runs as]:USER:_files' \
        '*-sudo[run the command as root]' \
        '*-setup[command to run as root before the test, in the same directory]:COMMAND:_files' \
        '*-teardown[command to run as root after the test, whatever its result]:COMMAND:_files' \
        '*-share[another directory of the host that the guest may write to]:DIR:_files' \
        '*-disk[another disk of the machine, /dev/vda, /dev/vdb and so on]:SIZE|FILE:_files' \
        '*-kernel-args[more arguments for the kernel'\''s command line]:ARGS:_files' \
        '*-sysctl[kernel parameter to set before the test, as sysctl(8) takes it]:NAME=VALUE:_files' \
        '*-accel[kvm]:NAME:_files' \
        '*-qemu[the QEMU to run]:PROGRAM:_files' \
        '*-device[another device of the machine, as QEMU'\''s -device]:ARGS:_files' \
        '*-nic[another network card, as QEMU'\''s -nic]:ARGS:_files' \
        '*-qemu-args[more arguments for QEMU]:ARGS:_files' \
        '*-boot-timeout[how long a machine may take until it answers, of time that the host lets it run]:TIME:_files' \
        '*-timeout[how long a command may run in its machine]:TIME:_files' \
        '*-stop-timeout[how long after a signal to end]:TIME:_files' \
        '*-snapshot[boot once, save the machine, and start all later ones from that snapshot]' \
        '*-cache-limit[disk that all of the cache may take]:SIZE:_files' \
        '*-snapshot-limit[disk that snapshots may take of it]:SIZE:_files' \
        '*-link-cache[keep what go links without an external linker, and copy it where nothing has changed]' \
        '*-link-limit[disk that kept links may take of the cache]:SIZE:_files' \
        '*-pull[when to ask the registry]:WHEN:_files' \
        '*-pull-fresh[how long what a tag resolved to is believed before the registry is asked again]:TIME:_files' \
        '*-image-limit[the largest image, unpacked, that is accepted]:SIZE:_files' \
        '*-insecure-registry[registry that may be asked over plain http]:HOST:_files' \
        '*-net[network of the guest]:KIND:_files' \
        '*-forward[forward connections from the host into the guest, for exec, shell, dlv and gdb-kernel]:FROM=TO:_files' \
        '*-gdb[for exec]' \
        '*-vmlinux[for gdb-kernel and -gdb]:FILE:_files' \
        '*-cache-dir[where kernels, images, snapshots and the guest program are kept]:DIR:_files' \
        '*-v[print each command before it runs]' \
        '1: :->command' '*:: :->rest'
    case $state in
        command)
            words_below=('go:go'\''s own commands, each program in a machine of its own' 'exec:a command in a machine' 'shell:your shell in a machine, in this directory' 'dlv:Delve'\''s own commands, with the program and Delve in a machine' 'gdb-kernel:a test, or exec command, in a machine whose kernel gdb holds' 'kernel:pull, list, describe, lock and remove kernels' 'config:every setting, its value, and where it came from' 'doctor:whether it will work here\: what this host and the kernel lack' 'setup-ci:make a CI runner fit, and say what the CI'\''s cache should keep' 'completion:what makes a shell complete vimto'\''s command line' 'manual:the manual page, for man(1)' 'version:the version of vimto, and the commit it was built from' 'help:this text, or that of one command')
            _describe command words_below
            ;;
        rest)
            case $line[1] in
                go)
                    if ((CURRENT == 1)); then
            words_below=('test:go'\''s own test, each test binary in a machine of its own' 'run:go'\''s own run, likewise')
            _describe command words_below
                    else _files; fi ;;
                kernel)
                    if ((CURRENT == 1)); then
            words_below=('pull:fetch images, or look for newer ones of their tags' 'ls:list what is in the cache, of all kinds, or what a registry has' 'info:describe a kernel\: version, drivers, debug symbols' 'lock:write down exactly which kernel .vimto.toml names' 'rm:remove what ls lists, by name or start of a digest' 'prune:remove what was not used for 30 days, or everything')
            _describe command words_below
                    else _files; fi ;;
                exec) _normal ;;
                *) _files ;;
            esac ;;
    esac
}

_vimto "$@"
