"""How a guest gets into memory: bzImage, vmlinux, PVH, multiboot, initramfs."""
