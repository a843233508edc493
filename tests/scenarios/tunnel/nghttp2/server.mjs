// A server by libnghttp2, as Node.js embeds it, that takes tunnels in a pod's stead:
//
//     node server.mjs '{"pod": ADDRESS, "client": URI, "ca": FILE, "chain": FILE, "key": FILE, "options": {…}}'
//
// Only the client with that identity is served, and only the pod's address. The port says what a tunnel gets. A line
// tells of each tunnel, and of what became of it where that matters.

import { strict as assert } from 'assert';
import { readFileSync } from 'fs';
import http2 from 'http2';

const { constants } = http2;
const { pod, client, ca, chain, key, options } = JSON.parse(process.argv[2]);

const ports = {
  8081(stream) {
    stream.respond({ ':status': 503 }, { endStream: true });
  },
  8082(stream) {
    stream.respond({ ':status': 200 });
    // This sends RST_STREAM alone, where `close` would send END_STREAM before it.
    stream.once('data', () => stream.destroy(new Error('cut')));
  },
  8083(stream) {
    stream.respond({ ':status': 200 });
    stream.end('bye');
    let received = 0;
    stream.on('data', (part) => (received += part.length));
    stream.on('end', () => console.log(`8083 received ${received}`));
  },
  8084(stream) {
    echo(stream);
    stream.session.goaway(constants.NGHTTP2_NO_ERROR, stream.id);
    console.log('going away');
  },
  8085(stream) {
    echo(stream);
    stream.on('aborted', () => console.log(`8085 was reset: ${stream.rstCode}`));
  },
  // Refuses the first stream when much has come on it, and has less room for the next.
  8086(stream) {
    if (hasRefused) return echo(stream);
    hasRefused = true;
    let received = 0;
    stream.on('data', (part) => {
      received += part.length;
      if (received < 20_000) return;
      stream.session.settings({ initialWindowSize: 1_000 }, () => stream.close(constants.NGHTTP2_REFUSED_STREAM));
    });
  },
};
let hasRefused = false;

function echo(stream) {
  stream.respond({ ':status': 200, baggage: 'k8s.namespace.name=shop,service.name=server' });
  stream.pipe(stream);
}

const server = http2.createSecureServer({
  ca: readFileSync(ca),
  cert: readFileSync(chain),
  key: readFileSync(key),
  minVersion: 'TLSv1.3',
  requestCert: true,
  rejectUnauthorized: true,
  ...options,
});
let sessions = 0;
server.on('session', (session) => {
  console.log(`session ${++sessions}`);
  session.on('error', (error) => console.log(`the session ended: ${error.message}`));
});
server.on('tlsClientError', (error) => console.log(`TLS: ${error.message}`));
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  const { ':method': method, ':authority': authority, baggage, forwarded } = headers;
  console.log(`${method} ${authority}\nbaggage ${baggage}\nforwarded ${forwarded}`);
  assert.equal(stream.session.socket.getPeerCertificate().subjectaltname, `URI:${client}`);
  assert.equal(stream.session.socket.alpnProtocol, 'h2');
  const [address, port] = authority.split(':');
  assert.deepEqual([method, address], ['CONNECT', pod]);
  (ports[port] || echo)(stream);
});
server.listen(15008, () => console.log('listening'));
