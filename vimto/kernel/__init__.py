"""What to boot: from what the user names to the files that QEMU gets."""
