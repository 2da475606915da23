//! The settings' names, in the order `--help` shows them.

/// Every setting: its name, what it accepts with the default in brackets, and what it does.
pub const KEYS: &[(&str, &str, &str)] = &[
    (
        "HOST",
        "an IP address [127.0.0.1]",
        "address the web server listens on",
    ),
    (
        "PORT",
        "0 to 65535 [7730]",
        "port the web server listens on; 0 takes a free one",
    ),
    (
        "DATA_DIR",
        "a folder [.data]",
        "SQLite file and generated key of an embedded start",
    ),
    (
        "DATABASE_URL",
        "postgres://… or sqlite://… [SQLite in DATA_DIR]",
        "the database",
    ),
    (
        "POSTGRES_HOST",
        "a host name",
        "with POSTGRES_DB, instead of DATABASE_URL",
    ),
    (
        "POSTGRES_PORT",
        "1 to 65535 [5432]",
        "port of POSTGRES_HOST",
    ),
    (
        "POSTGRES_DB",
        "a name [postgres]",
        "database on POSTGRES_HOST",
    ),
    (
        "POSTGRES_USER",
        "a name [postgres]",
        "user on POSTGRES_HOST",
    ),
    ("POSTGRES_PASSWORD", "text", "password on POSTGRES_HOST"),
    (
        "DATABASE_CONNECTIONS",
        "1 to 500 [10]",
        "most connections of one process",
    ),
    (
        "REDIS_URL",
        "redis://… or rediss://… [in-process queue]",
        "queue and events between processes",
    ),
    (
        "REDIS_PREFIX",
        "text [main-webserver]",
        "in front of every key and channel in Redis",
    ),
    (
        "SECRET_KEY",
        "32 characters or more [generated in DATA_DIR]",
        "signs access tokens, derives containers' keys",
    ),
    (
        "ADMIN_EMAIL",
        "an e-mail address [admin@localhost]",
        "administrator made on an empty database",
    ),
    (
        "ADMIN_PASSWORD",
        "12 to 256 characters [generated, printed once]",
        "that administrator's password",
    ),
    (
        "ACCESS_TOKEN_SECONDS",
        "10 to 86400 [900]",
        "life of an access token",
    ),
    (
        "REFRESH_TOKEN_DAYS",
        "1 to 365 [30]",
        "life of an unused refresh token",
    ),
    (
        "PROVIDER",
        "auto, docker, swarm or simulated [auto]",
        "container engine of what has no cluster; auto takes Docker when its socket answers",
    ),
    (
        "MACHINE_PROVIDER",
        "auto, qemu, libvirt or simulated [auto]",
        "engine of virtual machines; auto takes QEMU when it is installed",
    ),
    (
        "MACHINE_DIR",
        "a folder [machines in DATA_DIR]",
        "where QEMU keeps machines and their disks; its full name has 60 bytes at most",
    ),
    (
        "MACHINE_IMAGE_DIR",
        "a folder [images in DATA_DIR]",
        "where the images of machines are",
    ),
    (
        "LIBVIRT_URI",
        "qemu://… or qemu+…://… [qemu:///system]",
        "the libvirt of machines, when they are its; reached by virsh",
    ),
    (
        "LIBVIRT_POOL",
        "a name [main-webserver]",
        "libvirt's pool, a folder, that machines' disks are in",
    ),
    (
        "LIBVIRT_IMAGE_POOL",
        "a name [main-webserver-images]",
        "libvirt's pool, a folder, that the images of machines are in",
    ),
    (
        "MACHINE_ACCEL",
        "auto, kvm or tcg [auto]",
        "what runs a guest's instructions; auto takes KVM when a guest is seen to run with it",
    ),
    (
        "MACHINE_DISK_RESERVE_MEBIBYTES",
        "0 to 1000000000 [1024]",
        "disk space without which no machine is started",
    ),
    (
        "MACHINE_MEMORY_RESERVE_MEBIBYTES",
        "0 to 1000000000 [512]",
        "memory that is left to the host of the machines",
    ),
    (
        "MACHINES_PER_OWNER",
        "1 to 1000000 [20]",
        "virtual machines one owner has at once",
    ),
    (
        "MACHINE_ORPHAN_SECONDS",
        "0 to 31536000 [604800]",
        "how long a virtual machine that no row knows is left on its engine",
    ),
    (
        "DOCKER_HOST",
        "unix://… or tcp://… [unix:///var/run/docker.sock]",
        "the Docker engine",
    ),
    (
        "PUBLISH_ADDRESS",
        "an IP address [127.0.0.1]",
        "address containers' ports are published on",
    ),
    (
        "WORKER_CONCURRENCY",
        "1 to 1000 [16]",
        "tasks one worker runs at once",
    ),
    (
        "LEASE_SECONDS",
        "1 to 3600 [30]",
        "how long a silent worker keeps its tasks",
    ),
    (
        "DRAIN_SECONDS",
        "0 to 3600 [20]",
        "how long a stopping worker lets its tasks finish",
    ),
    (
        "TASKS_PER_OWNER",
        "1 to 100000000 [10000]",
        "most unfinished tasks of one owner",
    ),
    (
        "TASKS_TOTAL",
        "1 to 1000000000 [2000000]",
        "most unfinished tasks of all",
    ),
    (
        "ENGINE_RATE",
        "0 to 10000 [0]",
        "operations one engine is asked for per second, by all workers; 0 is no limit",
    ),
    (
        "CONTAINERS_PER_OWNER",
        "1 to 1000000 [100]",
        "most containers one owner has at once",
    ),
    (
        "CONTAINER_DRAIN_SECONDS",
        "0 to 604800 [300]",
        "how long a client may stay in a container that is drained",
    ),
    (
        "CONTAINER_IDLE_SECONDS",
        "0 to 31536000 [0]",
        "after how long without its client somebody's container is removed; 0 is never",
    ),
    (
        "CONTAINER_ABANDONED_SECONDS",
        "0 to 31536000 [0]",
        "after how long somebody's container is removed that no client came to; 0 is never",
    ),
    (
        "HEARTBEAT_SECONDS",
        "1 to 3600 [5]",
        "time between two heartbeats of a host",
    ),
    (
        "HOST_STALE_SECONDS",
        "1 to 86400 [20]",
        "silence after which nobody knows how a host's containers are",
    ),
    (
        "HOST_DEAD_SECONDS",
        "1 to 604800 [120]",
        "silence after which a host's containers are made anew elsewhere",
    ),
    (
        "SPARE_IDLE_SECONDS",
        "0 to 604800 [600]",
        "how long a spare machine stays in service with nothing to do",
    ),
    (
        "RECONCILE",
        "on, dry-run or off [on]",
        "whether differences between database and engines are mended, or only shown",
    ),
    (
        "RECONCILE_SECONDS",
        "1 to 86400 [15]",
        "time between two looks at an engine",
    ),
    (
        "ORPHAN_SECONDS",
        "0 to 604800 [60]",
        "how long what no row knows is left on an engine",
    ),
    (
        "TASK_DAYS",
        "1 to 36500 [30]",
        "how long ended tasks stay before they are archived",
    ),
    (
        "DEAD_LETTER_DAYS",
        "1 to 36500 [90]",
        "how long failed tasks stay before they are archived",
    ),
    (
        "ARCHIVE_DAYS",
        "1 to 36500 [365]",
        "how long archived tasks are kept",
    ),
    (
        "METRICS_PORT",
        "0 to 65535 [0]",
        "port on which a worker alone serves /metrics and /healthz; 0 is none",
    ),
    (
        "REQUEST_SECONDS",
        "1 to 3600 [30]",
        "longest time of one request",
    ),
    (
        "INTROSPECTION",
        "on or off [on]",
        "whether the schema answers questions about itself",
    ),
    ("CONSOLE", "on or off [on]", "whether the console is served"),
    (
        "PERSISTED_OPERATIONS",
        "a file [none]",
        "JSON object of names and operations, each also served at /api/rest/<name>",
    ),
    (
        "PERSISTED_ONLY",
        "on or off [off]",
        "whether only persisted operations are executed",
    ),
    (
        "LOG",
        "a tracing filter [info]",
        "what is logged, such as info,main_webserver=debug",
    ),
    (
        "LOG_FORMAT",
        "pretty or json [pretty]",
        "form of the log on standard error",
    ),
];
