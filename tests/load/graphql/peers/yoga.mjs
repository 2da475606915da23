// GraphQL Yoga over node-postgres, with a DataLoader for each relation in every request's context.
import { createServer } from 'node:http';
import DataLoader from 'dataloader';
import { createSchema, createYoga } from 'graphql-yoga';
import pg from 'pg';
import { serve } from './cluster.mjs';

const typeDefs = /* GraphQL */ `
  type Query {
    containers(owner: ID!, first: Int!): Containers!
  }
  type Containers {
    nodes: [Container!]!
  }
  type Container {
    id: ID!
    state: String!
    dpi: Int!
    createdAt: String!
    app: App
    owner: User
  }
  type App {
    name: String!
  }
  type User {
    email: String!
  }
`;

const resolvers = {
  Query: {
    async containers(_, { owner, first }, { pool }) {
      const { rows } = await pool.query({
        name: 'containers',
        text: `SELECT id, owner_id, app_id, state, dpi, created_at FROM container
               WHERE owner_id = $1 ORDER BY id DESC LIMIT $2`,
        values: [owner, first],
      });
      return { nodes: rows };
    },
  },
  Container: {
    createdAt: ({ created_at }) => created_at.toISOString(),
    app: ({ app_id }, _, { apps }) => apps.load(app_id),
    owner: ({ owner_id }, _, { owners }) => owners.load(owner_id),
  },
};

function byId(pool, name, text) {
  return new DataLoader(async (ids) => {
    const { rows } = await pool.query({ name, text, values: [ids] });
    const found = new Map(rows.map((row) => [row.id, row]));
    return ids.map((id) => found.get(id) ?? null);
  });
}

await serve(async (port) => {
  const pool = new pg.Pool({
    connectionString: process.env.DATABASE_URL,
    max: Number(process.env.CONNECTIONS),
  });
  const yoga = createYoga({
    schema: createSchema({ typeDefs, resolvers }),
    context: () => ({
      pool,
      apps: byId(pool, 'apps', 'SELECT id, name FROM app WHERE id = ANY($1::uuid[])'),
      owners: byId(pool, 'owners', 'SELECT id, email FROM account WHERE id = ANY($1::uuid[])'),
    }),
    graphiql: false,
    landingPage: false,
    logging: false,
  });
  createServer(yoga).listen(port, '127.0.0.1');
});
