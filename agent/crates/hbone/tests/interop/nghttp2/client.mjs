// A client by libnghttp2, as Node.js embeds it, for the echo server of echo.rs:
//
//     node client.mjs PORT CASE [NUMBER…]
//
// Each case is one connection. It exits with 0 if everything was as it says here.

import { strict as assert } from 'assert';
import { createHash, randomBytes } from 'crypto';
import { once } from 'events';
import http2 from 'http2';

const { constants } = http2;
const [port, name, ...numbers] = process.argv.slice(2);

// Opens a connection and waits for the server's SETTINGS.
async function open(options) {
  const session = http2.connect(`http://127.0.0.1:${port}`, options);
  await once(session, 'remoteSettings');
  return session;
}

// Lets open streams end, and waits until the connection is closed.
async function close(session) {
  session.close();
  await once(session, 'close');
}

function tunnel(session, authority, fields = {}, options = {}) {
  return session.request({ ':method': 'CONNECT', ':authority': authority, ...fields }, options);
}

async function answer(stream) {
  const [headers] = await once(stream, 'response');
  return headers;
}

// How a stream ended: its error code.
function end(stream) {
  return new Promise((resolve) => {
    stream.on('error', () => {});
    stream.on('close', () => resolve(stream.rstCode));
    stream.resume();
  });
}

// What comes on a stream to its end.
async function read(stream) {
  const parts = [];
  stream.on('data', (part) => parts.push(part));
  await once(stream, 'end');
  return Buffer.concat(parts);
}

// Sends in pieces that fit no frame, and no faster than the stream takes them.
async function send(stream, bytes) {
  for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 3) % 70_001) {
    if (!stream.write(bytes.subarray(at, at + size))) await once(stream, 'drain');
  }
  stream.end();
}

const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');

// Sends random bytes and receives them at the same time.
async function echo(session, length, options) {
  const sent = randomBytes(length);
  const stream = tunnel(session, '10.0.0.1:80', {}, options);
  const [received, headers] = await Promise.all([read(stream), answer(stream), send(stream, sent)]);
  assert.equal(headers[':status'], 200);
  assert.equal(received.length, length);
  assert.equal(hash(received), hash(sent));
}

const settled = (session, settings) =>
  new Promise((resolve, reject) => session.settings(settings, (error) => (error ? reject(error) : resolve())));

const ping = (session, payload) =>
  new Promise((resolve, reject) => {
    session.ping(payload, (error, _duration, returned) => (error ? reject(error) : resolve(returned)));
  });

const cases = {
  async fields() {
    const session = await open();
    const expected = {
      baggage: 'k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1',
      forwarded: 'for="10.244.1.5:40000";host=web.shop',
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
    };
    for (const authority of ['10.244.2.7:8080', '[fd00:244::7]:8080', 'web.shop.svc.cluster.local:80']) {
      const stream = tunnel(session, authority, { ...expected, 'x-unknown': 'of no interest' });
      const { ':status': status, baggage, forwarded, traceparent } = await answer(stream);
      assert.deepEqual({ baggage, forwarded, traceparent }, expected);
      assert.equal(status, 200);
      stream.end();
      assert.equal((await read(stream)).length, 0);
    }
    // Several lines of one field, and one that compression must never index.
    const several = { baggage: ['a=1', 'b=2'], forwarded: 'for=secret', [http2.sensitiveHeaders]: ['forwarded'] };
    for (let time = 0; time < 2; time++) {
      const stream = tunnel(session, '10.244.2.7:8080', several, { endStream: true });
      const { baggage, forwarded } = await answer(stream);
      assert.deepEqual([baggage, forwarded], ['a=1, b=2', 'for=secret']);
      await end(stream);
    }
    await close(session);
  },

  // The server's table is of any size, and nghttp2's encoder takes all of it.
  async compression() {
    const session = await open({ maxDeflateDynamicTableSize: 65_536 });
    const alphabets = ['0123456789', 'aceiost', '~^|\\<>{}', Array.from({ length: 94 }, (_, at) => String.fromCharCode(33 + at))];
    for (let time = 0; time < 3; time++) {
      for (let index = 0; index < 40; index++) {
        const alphabet = alphabets[index % alphabets.length];
        const baggage = Array.from({ length: 1 + index * 8 }, (_, at) => alphabet[(at * 7 + index) % alphabet.length]).join('');
        const forwarded = `for="10.0.${time}.${index}:1"`;
        const stream = tunnel(session, `10.0.0.${index % 5}:80`, { baggage, forwarded }, { endStream: true });
        const headers = await answer(stream);
        assert.deepEqual([headers.baggage, headers.forwarded], [baggage, forwarded]);
        await end(stream);
      }
    }
    await close(session);
  },

  async longFields() {
    const session = await open();
    for (const length of [30_000, 60_000]) {
      const baggage = randomBytes(length / 2).toString('hex');
      const stream = tunnel(session, '10.0.0.1:80', { baggage }, { endStream: true });
      assert.equal((await answer(stream)).baggage, baggage);
      await end(stream);
    }
    await close(session);
  },

  // The server ends the connection for a header list that is larger than it said it takes.
  async tooLongFields() {
    const session = await open();
    session.on('error', () => {});
    const goaway = once(session, 'goaway');
    const stream = tunnel(session, '10.0.0.1:80', { baggage: randomBytes(25_000).toString('hex') });
    stream.on('error', () => {});
    const [code, , debug] = await goaway;
    assert.equal(code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    assert.equal(debug.toString(), 'a header block is too large');
  },

  // NUMBERs: streams, bytes on each, the client's initial window and frame size.
  async bulk() {
    const [streams, length, initialWindowSize, maxFrameSize] = numbers.map(Number);
    const session = await open({ settings: { initialWindowSize, maxFrameSize } });
    await Promise.all(Array.from({ length: streams }, () => echo(session, length)));
    await close(session);
  },

  // NUMBER: bytes that are sent to a server that reads faster than the client writes.
  async upload() {
    const session = await open();
    const stream = tunnel(session, 'bye.test:1');
    await send(stream, randomBytes(Number(numbers[0])));
    assert.equal((await read(stream)).toString(), 'bye');
    // Node.js 18 closes a connection before it has sent the end of its last stream.
    await ping(session, Buffer.alloc(8));
    await close(session);
  },

  // NUMBER: the way in which the client pads its frames.
  async padding() {
    const session = await open({ paddingStrategy: Number(numbers[0]) });
    await Promise.all([1, 255, 256, 1_000_000, 1_000_000].map((length) => echo(session, length)));
    // So many frames of one byte that their padding exceeds the windows: it has to be given back, too.
    const stream = tunnel(session, '10.0.0.1:80');
    for (let time = 0; time < 1_500; time++) {
      stream.write('x');
      await once(stream, 'data');
    }
    stream.end();
    await end(stream);
    await close(session);
  },

  async halfCloses() {
    const session = await open();
    // The client ends first, and what it sent still comes back.
    const first = tunnel(session, '10.0.0.1:80');
    await answer(first);
    first.write('hello');
    assert.equal((await once(first, 'data')).toString(), 'hello');
    assert(!first.readableEnded);
    first.end('and goodbye');
    assert.equal((await read(first)).toString(), 'and goodbye');
    // The server ends first, and the client goes on sending.
    const second = tunnel(session, 'bye.test:1');
    assert.equal((await read(second)).toString(), 'bye');
    assert(!second.destroyed && !second.closed);
    await send(second, randomBytes(1_000_000));
    assert.equal(await end(second), constants.NGHTTP2_NO_ERROR);
    // The client says nothing at all.
    const third = tunnel(session, '10.0.0.1:80', {}, { endStream: true });
    assert.equal((await read(third)).length, 0);
    await close(session);
  },

  async refusals() {
    const session = await open();
    const get = session.request({ ':path': '/' });
    assert.equal((await answer(get))[':status'], 400);
    assert.match((await read(get)).toString(), /CONNECT only/);
    const refused = tunnel(session, 'refuse.test:1', {}, { endStream: true });
    assert.equal((await answer(refused))[':status'], 503);
    assert.equal(await end(refused), constants.NGHTTP2_NO_ERROR);
    await echo(session, 10);
    await close(session);
  },

  async resetsByTheServer() {
    const session = await open();
    for (let time = 0; time < 20; time++) {
      assert.equal(await end(tunnel(session, 'reset.test:1')), constants.NGHTTP2_CONNECT_ERROR);
      const cut = tunnel(session, 'cut.test:1');
      assert.equal((await answer(cut))[':status'], 200);
      // More than the window holds, so that the reset comes in the middle.
      cut.write(randomBytes(400_000));
      assert.equal(await end(cut), constants.NGHTTP2_CANCEL);
    }
    await echo(session, 1_000_000);
    await close(session);
  },

  async resetsByTheClient() {
    const session = await open();
    for (let time = 0; time < 50; time++) {
      const stream = tunnel(session, '10.0.0.1:80');
      await answer(stream);
      stream.write(randomBytes(100_000));
      if (time % 2) await once(stream, 'data');
      const code = end(stream);
      // RST_STREAM alone, and END_STREAM before it.
      if (time % 4 < 2) stream.destroy(new Error('cut'));
      else stream.close(constants.NGHTTP2_CANCEL);
      assert.equal(await code, [constants.NGHTTP2_INTERNAL_ERROR, constants.NGHTTP2_CANCEL][time % 4 >> 1]);
    }
    await echo(session, 1_000_000);
    await close(session);
  },

  // The server drains: streams from before go on, those that crossed the news are still served, later ones fail.
  async goawayByTheServer() {
    const session = await open();
    const goaways = [];
    session.on('goaway', (code, last) => goaways.push([code, last]));
    const before = tunnel(session, '10.0.0.1:80');
    await answer(before);
    const last = tunnel(session, 'last.test:1');
    const crossing = Array.from({ length: 10 }, () => tunnel(session, '10.0.0.1:80'));
    const all = [before, last, ...crossing];
    await Promise.all(all.slice(1).map(answer));
    assert.deepEqual(goaways[0], [constants.NGHTTP2_NO_ERROR, 2 ** 31 - 1]);
    assert.throws(() => tunnel(session, '10.0.0.1:80'), { code: 'ERR_HTTP2_GOAWAY_SESSION' });
    const ids = all.map(({ id }) => id);
    const closed = once(session, 'close');
    const sent = randomBytes(300_000);
    const received = await Promise.all(all.map(async (stream) => (await Promise.all([read(stream), send(stream, sent)]))[0]));
    received.forEach((bytes) => assert.equal(hash(bytes), hash(sent)));
    await closed;
    assert.deepEqual(goaways[1], [constants.NGHTTP2_NO_ERROR, Math.max(...ids)]);
  },

  async goawayByTheClient() {
    const session = await open();
    const stream = tunnel(session, '10.0.0.1:80');
    await answer(stream);
    session.goaway(constants.NGHTTP2_NO_ERROR, 0, Buffer.from('that was all'));
    const sent = randomBytes(500_000);
    const [received] = await Promise.all([read(stream), send(stream, sent)]);
    assert.equal(hash(received), hash(sent));
    await close(session);
  },

  async pings() {
    const session = await open();
    for (const payload of [Buffer.from('01234567'), Buffer.alloc(8), Buffer.alloc(8, 255)]) {
      assert.deepEqual(await ping(session, payload), payload);
    }
    await close(session);
  },

  // The client changes its mind about everything while bytes flow.
  async settings() {
    const session = await open({ settings: { initialWindowSize: 50_000 } });
    const sent = randomBytes(2_000_000);
    const stream = tunnel(session, '10.0.0.1:80');
    await answer(stream);
    const sending = send(stream, sent);
    // The server uses the window up, then the window shrinks below what is on its way.
    await once(stream, 'readable');
    await settled(session, { initialWindowSize: 1_000 });
    const reading = read(stream);
    for (const [initialWindowSize, maxFrameSize, headerTableSize] of [
      [10, 16_384, 0],
      [1_000_000, 1_000_000, 65_536],
      [65_535, 16_384, 100],
      [2_000_000, 2 ** 24 - 1, 4_096],
    ]) {
      // The table goes and comes back before the server encodes anything: nothing in it may be referred to.
      await Promise.all([
        settled(session, { headerTableSize: 0 }),
        settled(session, { initialWindowSize, maxFrameSize, headerTableSize }),
      ]);
      await echo(session, 5_000);
      const again = tunnel(session, '10.0.0.1:80', { baggage: 'service.name=web' }, { endStream: true });
      assert.equal((await answer(again)).baggage, 'service.name=web');
      await end(again);
    }
    await sending;
    assert.equal(hash(await reading), hash(sent));
    await close(session);
  },

  // More streams than the server takes at once wait their turn.
  async manyStreams() {
    const session = await open();
    await Promise.all(Array.from({ length: 30 }, () => echo(session, 20_000)));
    await close(session);
  },

  // HEADERS with a priority, and PRIORITY frames.
  async priorities() {
    const session = await open();
    const first = tunnel(session, '10.0.0.1:80', {}, { weight: 200 });
    const second = tunnel(session, '10.0.0.1:80', {}, { parent: first.id, exclusive: true, weight: 1 });
    first.priority({ weight: 7, parent: 0 });
    for (const stream of [first, second]) {
      const [received] = await Promise.all([read(stream), send(stream, Buffer.from('hello'))]);
      assert.equal(received.toString(), 'hello');
    }
    await close(session);
  },
};

// A case that waits for what does not come ends here, too: nothing is left to do then.
let isDone = false;
process.on('exit', (code) => {
  if (code === 0 && !isDone) {
    console.error(`${name}: the connection is over, and what was waited for did not come`);
    process.exitCode = 1;
  }
});
cases[name]().then(() => (isDone = true), (error) => {
  console.error(error);
  process.exit(1);
});
