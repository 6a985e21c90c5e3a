// An issuer of access tokens for the tests: oidc-provider, told by one line of JSON on standard input.
//
//   { module, port, certificate, key, jwks, algorithm, audience, scope, user, seconds }
//
// It speaks HTTPS, prints "ready" when it listens, and ends with its standard input. Its client "application" gets, by
// client credentials, a JWT for the resource `audience`, and else an opaque token, which its client "relay" may ask
// about.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const input = createInterface({ input: process.stdin });
const told = JSON.parse((await input[Symbol.asyncIterator]().next()).value);
process.stdin.on('end', () => process.exit(0)).resume();
const { default: Provider } = await import(pathToFileURL(told.module).href);

const client = (id, grants) => ({
  client_id: id,
  client_secret: `${id}: a "secret" of 100 %`,
  grant_types: grants,
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: 'client_secret_basic',
});
const resource = {
  accessTokenFormat: 'jwt',
  accessTokenTTL: told.seconds,
  audience: told.audience,
  jwt: { sign: { alg: told.algorithm } },
  scope: told.scope,
};
const provider = new Provider(`https://localhost:${told.port}`, {
  clients: [client('application', ['client_credentials']), client('relay', [])],
  extraTokenClaims: () => ({ preferred_username: told.user }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: () => resource,
    },
    revocation: { enabled: true },
  },
  jwks: told.jwks,
  scopes: [told.scope],
  ttl: { ClientCredentials: told.seconds },
});
const files = { cert: readFileSync(told.certificate), key: readFileSync(told.key) };
createServer(files, provider.callback()).listen(told.port, '127.0.0.1', () => console.log('ready'));
