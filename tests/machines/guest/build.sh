# shellcheck shell=bash
# Sourced: the guest of the tests and of the benchmark of machines. Needs tests/package.sh, RUN, and the repository as the
# working directory.

# The kernel of Debian's cloud images, an initial file system that is the whole guest, and disks, good and bad.
make_guest() {
    [ -n "${TEST_QEMU_IMAGES:-}" ] && return 0
    package qemu-system-x86_64 qemu-system-x86 && package qemu-img qemu-utils && package cpio cpio &&
        package /bin/busybox busybox-static && package xz xz-utils || return 1
    local cache="$PWD/target/tmp/guest" kernel
    [ -n "${CARGO_TARGET_DIR:-}" ] && cache="$CARGO_TARGET_DIR/tmp/guest"
    export TEST_QEMU_IMAGES="$cache/images" TEST_QEMU_DIRECTORY="$RUN/q"
    mkdir -p "$TEST_QEMU_DIRECTORY" "$cache/images" "$cache/kernel"
    if ! compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null; then
        [ -e "$RUN/apt-updated" ] || { apt-get update -qq && touch "$RUN/apt-updated"; }
        kernel="$(apt-cache search --names-only '^linux-image-6\.1\..*-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -1)"
        [ -n "$kernel" ] && (cd "$RUN" && apt-get download -qq "$kernel" 2>&1) >"$RUN/apt.log" &&
            dpkg-deb -x "$RUN/$kernel"_*.deb "$cache/kernel" || { tail -5 "$RUN/apt.log"; return 1; }
    fi
    cp "$cache"/kernel/boot/vmlinuz-* "$TEST_QEMU_IMAGES/vmlinuz" && make_initrd "$cache/kernel/lib/modules" &&
        make_disks "$TEST_QEMU_IMAGES"
}

# make_initrd MODULES: in the order in which they need each other; what a kernel has built in is no file.
make_initrd() {
    local tree="$RUN/initrd" module file order=""
    mkdir -p "$tree/bin" "$tree/modules"
    cp /bin/busybox "$tree/bin/busybox" && install -m 755 tests/machines/guest/init "$tree/init" || return 1
    for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover \
        virtio_net virtio_blk nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 fat vfat button evdev qemu_fw_cfg pvpanic \
        pvpanic-mmio; do
        file="$(find "$1" -name "$module.ko" -o -name "$module.ko.xz" | head -n 1)"
        case $file in
            '') continue ;;
            *.xz) xz -dc "$file" >"$tree/modules/$module.ko" ;;
            *) cp "$file" "$tree/modules/$module.ko" ;;
        esac
        order="$order $module"
    done
    echo "$order" >"$tree/modules/order"
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$TEST_QEMU_IMAGES/initrd"
}

# make_disks FOLDER: one with a text at its start, one whose tables are torn, one with a layer elsewhere, one of text.
make_disks() {
    echo secret >"$1/../secret"
    printf '%-511s\n' 'from the image' >"$RUN/base" && truncate -s 48M "$RUN/base" &&
        qemu-img convert -f raw -O qcow2 "$RUN/base" "$1/base.qcow2" && cp "$1/base.qcow2" "$1/corrupt.qcow2" &&
        dd if=/dev/urandom of="$1/corrupt.qcow2" bs=64k seek=1 count=2 conv=notrunc status=none &&
        qemu-img create -q -f qcow2 -b "$1/../secret" -F raw "$1/outside.qcow2" 1M && echo text >"$1/text.qcow2" &&
        printf 'QFI\373 and no more' >"$1/text.qcow2"
}
