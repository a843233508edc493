// A client by libnghttp2, as Node.js embeds it, that dials a pod's port 15008:
//
//     node client.mjs '{"pod": ADDRESS, "identity": URI, "namespace": NAME, "streams": NUMBER, "bulk": BYTES,
//                       "ca": FILE, "chain": FILE, "key": FILE}'
//
// The pod has servers on its ports 8080 (echo), 8081 (counts and checks), 8082 (reset), 8083 (says "bye" and ends),
// 8084 (echo, which will be reset), and none on 9. It exits with 0 if everything was as it says here.

import { strict as assert } from 'assert';
import { createHash, randomBytes } from 'crypto';
import { once } from 'events';
import { readFileSync } from 'fs';
import http2 from 'http2';

const { constants } = http2;
const { pod, identity, namespace, streams, bulk, ca, chain, key } = JSON.parse(process.argv[2]);

const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');

function tunnel(session, authority, fields = {}) {
  return session.request({ ':method': 'CONNECT', ':authority': authority, ...fields });
}

async function status(stream) {
  const [headers] = await once(stream, 'response');
  return headers[':status'];
}

async function read(stream) {
  const parts = [];
  stream.on('data', (part) => parts.push(part));
  await once(stream, 'end');
  return Buffer.concat(parts);
}

function end(stream) {
  return new Promise((resolve) => {
    stream.on('error', () => {});
    stream.on('close', () => resolve(stream.rstCode));
    stream.resume();
  });
}

// In pieces, and no faster than the stream takes them: Node.js limits what a connection may hold.
async function send(stream, bytes) {
  for (let at = 0; at < bytes.length; at += 50_000) {
    if (!stream.write(bytes.subarray(at, at + 50_000))) await once(stream, 'drain');
  }
  stream.end();
}

async function echo(session) {
  const sent = randomBytes(bulk);
  const stream = tunnel(session, `${pod}:8080`);
  const [received] = await Promise.all([read(stream), send(stream, sent)]);
  assert.equal(received.length, sent.length);
  assert.equal(hash(received), hash(sent));
}

async function main() {
  const session = http2.connect(`https://${pod}:15008`, {
    ca: readFileSync(ca),
    cert: readFileSync(chain),
    key: readFileSync(key),
    minVersion: 'TLSv1.3',
    // No name is sent: the address says it all.
    servername: '',
    checkServerIdentity: (_name, { subjectaltname }) => assert.equal(subjectaltname, `URI:${identity}`),
  });
  await once(session, 'remoteSettings');
  assert.equal(session.alpnProtocol, 'h2');

  const first = tunnel(session, `${pod}:8080`, {
    baggage: 'k8s.namespace.name=other,service.name=stranger',
    forwarded: 'for="10.9.9.9:1234"',
  });
  const [{ ':status': answered, baggage }] = await once(first, 'response');
  assert.equal(answered, 200);
  assert(baggage.includes(`k8s.namespace.name=${namespace}`), baggage);
  first.write('hello');
  assert.equal((await once(first, 'data')).toString(), 'hello');

  await Promise.all(Array.from({ length: streams }, () => echo(session)));
  // The same through small windows.
  await new Promise((resolve) => session.settings({ initialWindowSize: 3_000, headerTableSize: 0 }, resolve));
  await echo(session);

  // Half closes each way.
  const verify = tunnel(session, `${pod}:8081`);
  verify.end();
  assert.equal((await read(verify)).toString(), '0 ok\n');
  const bye = tunnel(session, `${pod}:8083`);
  assert.equal((await read(bye)).toString(), 'bye\n');
  bye.end(randomBytes(1_000_000));
  assert.equal(await end(bye), constants.NGHTTP2_NO_ERROR);

  // Resets each way.
  const reset = tunnel(session, `${pod}:8082`);
  assert.equal(await status(reset), 200);
  reset.write('hello');
  assert.notEqual(await end(reset), constants.NGHTTP2_NO_ERROR);
  const cut = tunnel(session, `${pod}:8084`);
  cut.write('hello');
  await once(cut, 'data');
  // This sends RST_STREAM alone, where `close` would send END_STREAM before it.
  cut.on('error', () => {});
  cut.destroy(new Error('cut'));

  // Refusals.
  for (const [authority, expected] of [[`${pod}:9`, 503], ['example.com:80', 400], [`${pod}:15008`, 401]]) {
    const refused = tunnel(session, authority);
    assert.equal(await status(refused), expected, authority);
    await end(refused);
  }

  await new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
  first.end();
  assert.equal((await read(first)).length, 0);
  session.close();
  await once(session, 'close');
}

// Whoever waits for what does not come once the connection is over ends here, too.
let isDone = false;
process.on('exit', (code) => {
  if (code === 0 && !isDone) {
    console.error('the connection is over, and what was waited for did not come');
    process.exitCode = 1;
  }
});
main().then(() => (isDone = true), (error) => {
  console.error(error);
  process.exit(1);
});
