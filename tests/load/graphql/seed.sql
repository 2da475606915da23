-- Fills up the product's tables: 50 apps, and :containers containers of everybody who is a plain user, in 3 regions. All of them
-- have ended: of others the product would find that no engine knows them, and make them anew while it is measured.

INSERT INTO app (id, slug, name, category, description, image, command, ports, cpu_millis, memory_bytes, active,
                 version, created_at, updated_at)
SELECT gen_random_uuid(), 'app-' || n, 'App number ' || n, 'Examples', 'An app to be read.', 'busybox:1.37',
       '["sleep", "600"]', '[8080]', 250, 64 << 20, TRUE, 1, now(), now()
FROM generate_series((SELECT count(*) FROM app) + 1, 50) AS n;

-- One container a second until now, the owners in turn. An id is a UUIDv7 (RFC 9562) of the container's own time, whose
-- microseconds are zero because not every peer's language has them.
WITH owners AS (SELECT array_agg(id ORDER BY id) AS ids FROM account WHERE role = 'user'),
     apps AS (SELECT array_agg(id ORDER BY slug) AS ids FROM app),
     regions AS (SELECT (array_agg(id ORDER BY name))[:3] AS ids FROM region),
     times AS (SELECT n, date_trunc('second', now()) - (:containers - n) * interval '1 second' AS at
               FROM generate_series(1, :containers) AS n)
INSERT INTO container (id, owner_id, app_id, region_id, state, version, dpi, provider, handle, ip, ports, created_at,
                       updated_at, running_at)
SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                                      PLACING substring(int8send((extract(epoch FROM at) * 1000)::bigint) FROM 3)
                                      FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid,
       owners.ids[1 + n % cardinality(owners.ids)],
       apps.ids[1 + floor(random() * cardinality(apps.ids))::int],
       regions.ids[1 + n % cardinality(regions.ids)],
       (ARRAY['failed', 'deleted', 'deleted'])[1 + floor(random() * 3)::int],
       3, (ARRAY[96, 120, 144])[1 + n % 3], 'simulated', 'main-' || n, '10.0.0.1',
       jsonb_build_object('8080', 40000 + n % 20000), at, at, at
FROM times, owners, apps, regions;

VACUUM ANALYZE;
CHECKPOINT;
