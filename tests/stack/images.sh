# shellcheck shell=bash
# Sourced: stand-ins for the images that docker/ names, made of Debian's packages and this machine's compilers, under the
# same names and with the same entries, for machines that reach no image registry. RUN is the run's own folder.

# debian_tree FOLDER PACKAGE…: a Debian with these packages unpacked and set up.
debian_tree() {
    local to="$1"
    shift
    mmdebstrap --quiet --variant=essential --include="apt,$(IFS=, && echo "$*")" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$to" >"$RUN/debian.log" 2>&1 ||
        { tail -5 "$RUN/debian.log"; return 1; }
    # All it needs is in it.
    rm -rf "$to"/etc/apt/sources.list* "$to"/var/lib/apt/lists/* "$to"/var/cache/apt/*
}

# import TREE IMAGE [CHANGE…]
import() {
    local tree="$1" image="$2" change changes=()
    shift 2
    for change in "$@"; do changes+=(-c "$change"); done
    tar -C "$tree" -c . | docker -H "$TEST_DOCKER_HOST" import "${changes[@]}" - "$image" >/dev/null
}

# What runs beside the service, and what its image is made of. One tree serves for all: it is the entries that count.
stack_images() {
    local tree="$RUN/stack-tree"
    debian_tree "$tree" ca-certificates postgresql-15 postgresql-client-15 redis-server || return 1
    cp tests/stack/postgres-entry.sh "$tree/usr/local/bin/docker-entrypoint.sh"
    chmod 755 "$tree/usr/local/bin/docker-entrypoint.sh"
    install -d -o "$(id_of postgres "$tree")" "$tree/var/lib/postgresql/data"
    local path='PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin'
    import "$tree" debian:bookworm-slim "ENV $path" 'CMD ["bash"]' &&
        import "$tree" postgres:15-bookworm "ENV $path PGDATA=/var/lib/postgresql/data" 'VOLUME /var/lib/postgresql/data' \
            'ENTRYPOINT ["docker-entrypoint.sh"]' 'EXPOSE 5432' 'CMD ["postgres"]' &&
        import "$tree" redis:7-bookworm "ENV $path" 'VOLUME /data' 'WORKDIR /data' 'EXPOSE 6379' 'CMD ["redis-server"]'
}

# id_of USER TREE
id_of() { sed -n "s/^$1:[^:]*:\([0-9]*\):.*/\1/p" "$2/etc/passwd"; }

# binary_image FILE IMAGE: an image that has a binary where docker/Dockerfile looks for it.
binary_image() {
    local tree="$RUN/binary-tree"
    rm -rf "$tree"
    install -D "$1" "$tree/usr/local/bin/main-webserver"
    import "$tree" "$2"
    rm -rf "$tree"
}

# What docker/Dockerfile compiles with: this machine's Rust and Node.js, where the real images have theirs.
compiler_images() {
    local tree="$RUN/rust-tree"
    debian_tree "$tree" ca-certificates gcc libc6-dev || return 1
    # The certificates this machine trusts, to reach the registries as it does.
    cp -L /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
    mkdir -p "$tree/usr/local/cargo"
    cp -r "$(rustc --print sysroot)" "$tree/usr/local/rust"
    import "$tree" rust:1.95-bookworm 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        'ENV CARGO_HOME=/usr/local/cargo' || return 1
    rm -rf "$tree/usr/local/rust"
    mkdir -p "$tree/usr/local/lib/node_modules"
    cp -L "$(command -v node)" "$tree/usr/local/bin/node"
    cp -r "$(dirname "$(readlink -f "$(command -v npm)")")/.." "$tree/usr/local/lib/node_modules/npm"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$tree/usr/local/bin/npm"
    import "$tree" node:20-bookworm-slim 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt'
    rm -rf "$tree"
}
