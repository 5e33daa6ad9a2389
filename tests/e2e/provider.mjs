// An OpenID Connect provider until it is killed: MODULES HOST PORT KEY CERTIFICATE SECRET REDIRECT. Whoever signs in is who they say they
// are, in the groups of GROUPS. PUT /keys gives it other keys to sign with.
//
// Of somebody whose name begins with a word of FORGERIES it says in their ID token what it should not, and signs that.
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, host, port, key, cert, secret, redirect] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(`${modules}/${file}`).href);
const { default: Provider } = await load('oidc-provider/lib/index.js');
const { SignJWT, decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair } = await load('jose/dist/node/esm/index.js');

const issuer = `https://${host}:${port}`;
const GROUPS = { anna: ['everybody', 'noc'], olga: ['owners'], namesake: ['noc'] };
const NAMES = { namesake: 'Anna' };
const hourAgo = () => Math.floor(Date.now() / 1000) - 3600;
const FORGERIES = {
  nonce: (claims) => ({ ...claims, nonce: 'another' }),
  audience: (claims) => ({ ...claims, aud: 'another' }),
  audiences: (claims) => ({ ...claims, aud: [claims.aud, 'another'] }),
  issuer: (claims) => ({ ...claims, iss: 'https://another.example' }),
  expired: (claims) => ({ ...claims, exp: hourAgo() + 60 }),
  old: (claims) => ({ ...claims, iat: hourAgo() }),
  key: (claims) => claims,
  secret: (claims) => claims,
  unsigned: (claims) => claims,
};

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

async function forged(token, privateKey) {
  const claims = decodeJwt(token);
  const header = decodeProtectedHeader(token);
  const word = claims.sub.split('.')[0];
  if (!(word in FORGERIES)) return token;
  const sign = (header, key) => new SignJWT(FORGERIES[word](claims)).setProtectedHeader(header).sign(key);
  switch (word) {
    case 'key':
      return sign(header, (await generateKeyPair('RS256')).privateKey);
    case 'secret':
      return sign({ alg: 'HS256' }, Buffer.from(secret));
    case 'unsigned':
      return `${base64({ alg: 'none' })}.${base64(claims)}.`;
    default:
      return sign(header, privateKey);
  }
}

/** As OpenID Connect has it, claims of scopes are asked for; many providers put them into the ID token, too. */
async function provider(kid, conformIdTokenClaims) {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const jwk = { ...(await exportJWK(privateKey)), kid, use: 'sig', alg: 'RS256' };
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'popgate', client_secret: secret, redirect_uris: [redirect] }],
    jwks: { keys: [jwk] },
    cookies: { keys: ['of this run'] },
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'] },
    conformIdTokenClaims,
    pkce: { required: () => true, methods: ['S256'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: NAMES[id] ?? id.split('.').at(-1), groups: GROUPS[id.split('.').at(-1)] ?? [] }),
    }),
    // Nobody is asked whether the box may know who they are.
    async loadExistingGrant({ oidc }) {
      const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
      grant.addOIDCScope('openid profile');
      await grant.save();
      return grant;
    },
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === '/token' && ctx.body?.id_token) ctx.body = { ...ctx.body, id_token: await forged(ctx.body.id_token, privateKey) };
  });
  return provider.callback();
}

let round = 0;
let answer = await provider('first', true);
const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, async (request, response) => {
  if (request.method === 'PUT' && request.url === '/keys') {
    answer = await provider(`other-${++round}`, false);
    return response.end();
  }
  return answer(request, response);
});
server.listen(Number(port), host, () => console.log('listening'));
