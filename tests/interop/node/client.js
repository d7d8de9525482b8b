// Node's http and fetch against the service that BASE or UNIX_SOCKET leads to, through PROXY if that is set.
'use strict';

const assert = require('node:assert');
const http = require('node:http');
const { Readable } = require('node:stream');
const { setTimeout: sleep } = require('node:timers/promises');
const zlib = require('node:zlib');
const { SIZES, body, collect } = require('./bodies.js');

const REQUESTS_IN_A_ROW = 200;
const PARALLEL = 32;
const CONNECTIONS_MAX = 5;
const TIMEOUT_MS = 60_000;

const { WAY, BASE, UNIX_SOCKET, PROXY } = process.env;
const base = new URL(BASE);
const prefix = base.pathname === '/' ? '' : base.pathname;

const one = new http.Agent({ keepAlive: true, maxSockets: 1 });
const many = new http.Agent({ keepAlive: true, maxSockets: PARALLEL });

/** Where a request goes, as an option of http.request. */
function target(path) {
  if (UNIX_SOCKET) return { socketPath: UNIX_SOCKET, path: prefix + path };
  const to = new URL(PROXY || BASE);
  return { host: to.hostname, port: to.port, path: PROXY ? BASE + path : prefix + path };
}

/** Sends a request, `fill` writes its body; resolves to the answer with its body, trailers and interim answers. */
function ask(method, path, { headers = {}, agent = one, fill = (request) => request.end() } = {}) {
  return new Promise((resolve, reject) => {
    const host = UNIX_SOCKET ? 'service' : base.host;
    const request = http.request({ ...target(path), method, agent, headers: { host, ...headers } });
    const interim = [];
    request.setTimeout(TIMEOUT_MS, () => request.destroy(new Error(`${method} ${path} took too long`)));
    request.on('information', (information) => interim.push(information.statusCode));
    request.on('error', reject);
    request.on('response', (response) => {
      collect(response).then((content) => resolve({ response, content, interim, request }), reject);
    });
    fill(request);
  });
}

const ok = (name) => console.log(`ok ${name}`);
function same(name, wanted, got) {
  assert.ok(wanted.equals(got), `${name}: ${got.length} bytes of ${wanted.length}, or others`);
  ok(name);
}
function equal(name, wanted, got) {
  assert.deepStrictEqual(got, wanted, name);
  ok(name);
}

async function bodies() {
  for (const size of SIZES) {
    const content = body(size);
    const whole = await ask('POST', '/echo', { fill: (request) => request.end(content) });
    same(`POST ${size}`, content, whole.content);
    const pieces = (request) => {
      for (let start = 0; start < size; start += 7000) request.write(content.subarray(start, start + 7000));
      request.addTrailers({ 'x-sum': `sum-${size}` });
      request.end();
    };
    const headers = { 'transfer-encoding': 'chunked', trailer: 'x-sum' };
    const chunked = await ask('PUT', '/echo', { headers, fill: pieces });
    same(`PUT ${size} in chunks`, content, chunked.content);
    if (WAY !== 'shm') {
      equal(`PUT ${size}: a trailer goes up`, `sum-${size}`, chunked.response.headers['x-trailer']);
      same(`GET ${size}`, content, (await ask('GET', `/bytes/${size}`)).content);
      const down = await ask('GET', `/pieces/${size}`);
      same(`GET ${size} in pieces`, content, down.content);
      equal(`GET ${size}: a trailer comes down`, `sum-${size}`, down.response.trailers['x-sum']);
      const head = await ask('HEAD', `/bytes/${size}`);
      equal(`HEAD ${size}`, [200, String(size), 0], [head.response.statusCode, head.response.headers['content-length'], head.content.length]);
      same(`GET ${size} behind HEAD`, content, (await ask('GET', `/bytes/${size}`)).content);
    }
  }
}

async function answers() {
  for (const status of [204, 304]) {
    const { response, content } = await ask('GET', `/status/${status}`);
    equal(String(status), [status, 0, '"the-same"'], [response.statusCode, content.length, response.headers.etag]);
  }
  const redirect = await ask('GET', '/redirect');
  equal('302 as it is', [302, '/bytes/10', 'elsewhere'], [redirect.response.statusCode, redirect.response.headers.location, String(redirect.content)]);
  const gzip = await ask('GET', '/gzip');
  equal('what gzip packed stays packed', 'gzip', gzip.response.headers['content-encoding']);
  same('and can be unpacked', body(50_000), zlib.gunzipSync(gzip.content));
  const hinted = await ask('GET', '/hints');
  equal('103, then the answer', [[103], 'hinted'], [hinted.interim, String(hinted.content)]);
  const expecting = await ask('POST', '/echo', {
    headers: { expect: '100-continue', 'content-length': 8000 },
    fill: (request) => {
      request.flushHeaders();
      request.on('continue', () => request.end(body(8000)));
    },
  });
  same('the body that waits for 100', body(8000), expecting.content);
}

async function manyRequests() {
  const before = Number((await ask('GET', '/connections')).content);
  let reused = 0;
  for (let i = 0; i < REQUESTS_IN_A_ROW; i++) {
    const { content, request } = await ask('GET', '/bytes/100');
    assert.ok(content.equals(body(100)));
    reused += request.reusedSocket ? 1 : 0;
  }
  equal('requests in a row on one connection', REQUESTS_IN_A_ROW, reused);
  const after = Number((await ask('GET', '/connections')).content);
  assert.ok(after - before <= CONNECTIONS_MAX, `${after - before} connections to the service`);
  ok('few connections to the service');
}

async function parallel() {
  const jobs = Array.from({ length: PARALLEL * 10 }, async (_, i) => {
    const content = Buffer.concat([Buffer.from(`${i} `), body(i * 331)]);
    const answer = await ask('POST', '/echo', { agent: many, fill: (request) => request.end(content) });
    assert.ok(answer.content.equals(content), `parallel request ${i}`);
  });
  await Promise.all(jobs);
  ok(`${jobs.length} requests, ${PARALLEL} at a time`);
}

/**
 * The service answers without reading the request. A client that sends on may see its upload break before it reads the answer, also
 * without a sidecar; but it never gets another answer. One that pauses gets it.
 */
async function earlyAnswer() {
  const refuse = (headers, fill) =>
    ask('POST', '/refuse', { headers, agent: false, fill }).then(
      ({ response }) => response.statusCode,
      (error) => error.code,
    );
  const content = body(8_388_608);
  const outcome = await refuse({ 'content-length': content.length }, (request) => request.end(content));
  assert.ok([413, 'EPIPE', 'ECONNRESET'].includes(outcome), `413 or nothing, not ${outcome}`);
  ok('413 or nothing while 8 MB are being sent');
  equal('413 before the request has ended', 413, await refuse({ 'transfer-encoding': 'chunked' }, (request) => request.write(content.subarray(0, 1000))));
}

/** Callers that go away in the midst of an answer: the service hears of it, others do not. */
async function leavers() {
  const aborted = async () => Number((await ask('GET', '/aborted')).content);
  const before = await aborted();
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve, reject) => {
      const request = http.get({ ...target('/endless'), agent: false, headers: { host: base.host } }, (response) => {
        response.on('error', () => {});
        response.once('data', () => resolve(request.destroy()));
      });
      request.on('error', reject);
    });
  }
  const deadline = Date.now() + TIMEOUT_MS;
  while ((await aborted()) < before + 20 && Date.now() < deadline) await sleep(20);
  equal('20 callers that left', before + 20, await aborted());
}

async function fetching() {
  const options = { method: 'POST', duplex: 'half', body: Readable.toWeb(Readable.from([body(1000), body(70_000)])) };
  const answer = await fetch(`${BASE}/echo`, options);
  same('fetch, from a stream', Buffer.concat([body(1000), body(70_000)]), Buffer.from(await answer.arrayBuffer()));
  if (WAY === 'shm') return;
  const redirected = await fetch(`${BASE}/redirect`);
  equal('fetch follows', [true, 200], [redirected.redirected, redirected.status]);
  same('fetch unpacks', body(50_000), Buffer.from(await (await fetch(`${BASE}/gzip`)).arrayBuffer()));
}

async function main() {
  await bodies();
  await parallel();
  if (!UNIX_SOCKET && !PROXY) await fetching();
  if (WAY === 'shm') return;
  await answers();
  await manyRequests();
  await earlyAnswer();
  await leavers();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
