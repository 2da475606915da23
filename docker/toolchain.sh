#!/bin/sh
# toolchain BUILDARCH TARGETARCH: what compiles for another processor, and the words that ask cargo for it.
set -eu
words=/usr/local/etc/cargo-target
mkdir -p "$(dirname "$words")"
: >"$words"
[ "$1" = "$2" ] && exit 0
case $2 in
    amd64) target=x86_64-unknown-linux-gnu compiler=x86-64-linux-gnu other=amd64 ;;
    arm64) target=aarch64-unknown-linux-gnu compiler=aarch64-linux-gnu other=arm64 ;;
    *) echo "no toolchain for $2: amd64 and arm64 are built" >&2 && exit 1 ;;
esac
apt-get update
apt-get install -y --no-install-recommends "gcc-$compiler" "libc6-dev-$other-cross"
rm -rf /var/lib/apt/lists/*
rustup target add "$target"
echo "--target $target" >"$words"
