// A server by libnghttp2, as Node.js embeds it, for one connection:
//
//     node server.mjs OPTIONS
//
// OPTIONS are those of http2.createServer, as JSON. The first line that it prints is its port, the others tell what
// became of the client's streams and what else the client said. It returns what it gets on a tunnel, its baggage too;
// the authorities in `hosts` get something else.

import http2 from 'http2';

const { constants } = http2;

const hosts = {
  // Its own fields, a line for each.
  fields(stream, headers) {
    stream.respond({ ':status': 200, baggage: headers.baggage });
    const names = [':method', ':authority', ':path', 'baggage', 'forwarded', 'traceparent'];
    stream.end(names.filter((name) => name in headers).map((name) => `${name}: ${headers[name]}\n`).join(''));
  },
  refuse(stream) {
    stream.respond({ ':status': 401 }, { endStream: true });
  },
  reset(stream) {
    stream.close(constants.NGHTTP2_CONNECT_ERROR);
  },
  // Two ways to end after the first data: RST_STREAM alone, and END_STREAM before it.
  cut(stream) {
    stream.respond({ ':status': 200 });
    stream.once('data', () => stream.destroy(new Error('cut')));
  },
  close(stream) {
    stream.respond({ ':status': 200 });
    stream.once('data', () => stream.close(constants.NGHTTP2_CANCEL));
  },
  // Says goodbye at once, and goes on reading; a line tells how much.
  bye(stream) {
    stream.respond({ ':status': 200 });
    stream.end('bye');
    let received = 0;
    stream.on('data', (part) => (received += part.length));
    stream.on('end', () => console.log(`received ${received}`));
  },
  // Answers once the client has acknowledged the settings in its baggage, one set of them after the other.
  settings(stream, headers) {
    const sets = JSON.parse(headers.baggage);
    let acknowledged = 0;
    for (const set of sets) {
      stream.session.settings(set, (error) => {
        if (error) throw error;
        acknowledged += 1;
        if (acknowledged === sets.length) stream.respond({ ':status': 200 }, { endStream: true });
      });
    }
  },
  // Answers with what came back from a PING.
  ping(stream) {
    stream.session.ping(Buffer.from('01234567'), (error, _duration, returned) => {
      if (error) throw error;
      stream.respond({ ':status': 200, baggage: `ping=${returned}` }, { endStream: true });
    });
  },
  // What a proxy has no use for: informational answers, frames of extensions.
  chatter(stream) {
    stream.additionalHeaders({ ':status': 102 });
    stream.additionalHeaders({ ':status': 103, link: '</style.css>; rel=preload' });
    stream.session.altsvc('h2=":8000"', stream.id);
    stream.session.origin('https://example.com');
    echo(stream, {});
  },
  // A tunnel has no trailers.
  trailers(stream) {
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ baggage: 'too=late' }));
    stream.end('bye');
  },
  // An echo, and no later streams.
  last(stream, headers) {
    stream.session.goaway(constants.NGHTTP2_NO_ERROR, stream.id, Buffer.from('that was all'));
    echo(stream, headers);
  },
  // Wants the connection to end, for a reason.
  calm(stream) {
    stream.session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, 0, Buffer.from('too much'));
    stream.respond({ ':status': 200 }, { endStream: true });
  },
};

function echo(stream, { baggage }) {
  stream.respond(baggage ? { ':status': 200, baggage } : { ':status': 200 });
  stream.pipe(stream);
}

const server = http2.createServer(JSON.parse(process.argv[2]));
server.on('stream', (stream, headers) => {
  const { id } = stream;
  // Streams end in all sorts of ways here, and the client looks at them.
  stream.on('error', () => {});
  stream.on('close', () => console.log(`stream ${id} ended with ${stream.rstCode}`));
  const [, host] = /^(\w+)\.test:1$/.exec(headers[':authority']) || [];
  (hosts[host] || echo)(stream, headers);
});
server.on('session', (session) => {
  server.close();
  session.on('goaway', (code, _last, debug) => console.log(`goaway ${code} ${debug || ''}`.trim()));
  session.on('ping', (payload) => console.log(`ping ${payload}`));
  session.on('error', (error) => console.log(`error ${error.message}`));
});
server.listen(0, '127.0.0.1');
server.on('listening', () => console.log(server.address().port));
