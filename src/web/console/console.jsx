// The console of main-webserver: a bar to log in with, and GraphiQL below it.
// The access token lives in this page's memory only and goes to HTTP requests and to the WebSocket alike.
import { StrictMode, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { GraphiQL } from 'graphiql';
import { getOperationAST, parse } from 'graphql';
import { createClient } from 'graphql-ws';
import 'graphiql/style.css';
import './console.css';

globalThis.MonacoEnvironment = {
  getWorker(_id, label) {
    const name = { json: 'json', graphql: 'graphql' }[label] ?? 'editor';
    return new Worker(`/assets/${name}.worker.js`, { type: 'module' });
  },
};

const WELCOME = `# Welcome. Ctrl-Enter runs the operation under the cursor; the schema is in the docs on the left.
# Log in with the bar above, then try: mutation { startDemoTask(input: {}) { task { id } } }
{
  apps {
    nodes {
      slug
      name
    }
  }
}
`;

const LOG_IN = `mutation LogIn($input: LogInInput!) {
  logIn(input: $input) { accessToken user { email role } }
}`;

const endpoint = new URL('/graphql', location.href);

async function post(request, headers) {
  const body = JSON.stringify(request);
  const answer = await fetch(endpoint, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body });
  return answer.json();
}

async function send(query, variables, token) {
  const { data, errors } = await post({ query, variables }, authorization(token));
  if (errors?.length) throw new Error(errors[0].message);
  return data;
}

const authorization = (token) => (token ? { authorization: `Bearer ${token}` } : {});

// Subscriptions go over one socket a login: who is connected is settled when it opens. The request's own text decides,
// because the editor's idea of the operation lags behind fast typing.
function fetcherFor(token) {
  const url = new URL(endpoint);
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = createClient({ url: url.href, connectionParams: authorization(token), lazy: true });
  const fetcher = (request, { headers } = {}) => {
    const operation = getOperationAST(parse(request.query), request.operationName);
    if (operation?.operation === 'subscription') return socket.iterate(request);
    return post(request, { ...authorization(token), ...headers });
  };
  return { fetcher, close: () => socket.dispose() };
}

function Bar({ login, onLogin }) {
  const [problem, setProblem] = useState('');
  const [isBusy, setBusy] = useState(false);

  const run = async (work) => {
    setBusy(true);
    setProblem('');
    try {
      onLogin(await work());
    } catch (error) {
      setProblem(error.message);
    } finally {
      setBusy(false);
    }
  };
  const logIn = (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const input = { email: form.get('email'), password: form.get('password') };
    run(async () => {
      const { logIn: granted } = await send(LOG_IN, { input });
      return { token: granted.accessToken, ...granted.user };
    });
  };
  const logOut = () =>
    run(async () => {
      await send('mutation { logOut { ok } }', {}, login.token);
      return null;
    });

  return (
    <header className="bar">
      <strong>main-webserver</strong>
      {login ? (
        <span className="who">
          <span role="status">
            {login.email} ({login.role})
          </span>
          <button type="button" disabled={isBusy} onClick={logOut}>
            Log out
          </button>
        </span>
      ) : (
        <form className="who" onSubmit={logIn}>
          <span role="alert">{problem}</span>
          <input name="email" type="text" aria-label="E-mail" placeholder="E-mail" autoComplete="username" required />
          <input name="password" type="password" aria-label="Password" placeholder="Password" autoComplete="current-password" required />
          <button type="submit" disabled={isBusy}>
            Log in
          </button>
        </form>
      )}
    </header>
  );
}

function Console() {
  const [login, setLogin] = useState(null);
  const { fetcher, close } = useMemo(() => fetcherFor(login?.token), [login]);
  const change = (next) => {
    close();
    setLogin(next);
  };
  return (
    <>
      <Bar login={login} onLogin={change} />
      <main>
        <GraphiQL fetcher={fetcher} defaultQuery={WELCOME} shouldPersistHeaders={false} />
      </main>
    </>
  );
}

createRoot(document.getElementById('console')).render(
  <StrictMode>
    <Console />
  </StrictMode>,
);
