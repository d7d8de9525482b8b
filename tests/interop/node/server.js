// A service on Node's http: server.js PORT
'use strict';

const http = require('node:http');
const zlib = require('node:zlib');
const { body, collect } = require('./bodies.js');

let connections = 0;
let aborted = 0;
const paths = {
  echo: async (request, response) => {
    const content = await collect(request);
    response.setHeader('x-transfer-encoding', request.headers['transfer-encoding'] ?? 'none');
    response.setHeader('x-trailer', request.trailers['x-sum'] ?? 'none');
    response.end(content);
  },
  bytes: (_, response, size) => response.writeHead(200, { 'content-length': size }).end(body(Number(size))),
  pieces: (_, response, size) => {
    response.writeHead(200, { trailer: 'x-sum' });
    const content = body(Number(size));
    for (let start = 0; start < content.length; start += 10_000) response.write(content.subarray(start, start + 10_000));
    response.addTrailers({ 'x-sum': `sum-${size}` });
    response.end();
  },
  hints: (_, response) => {
    response.writeEarlyHints({ link: '</style.css>; rel=preload' });
    response.end('hinted');
  },
  status: (_, response, status) => response.writeHead(Number(status), { etag: '"the-same"' }).end(),
  redirect: (_, response) => response.writeHead(302, { location: '/bytes/10' }).end('elsewhere'),
  gzip: (_, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(zlib.gzipSync(body(50_000))),
  // Answers while the request is still being sent, and reads none of it.
  refuse: (_, response) => response.writeHead(413).end('too much'),
  endless: (request, response) => {
    const timer = setInterval(() => response.write(body(10_000)), 5);
    response.on('close', () => {
      aborted++;
      clearInterval(timer);
    });
  },
  connections: (_, response) => response.end(String(connections)),
  aborted: (_, response) => response.end(String(aborted)),
};

const answer = (request, response) => {
  const [name, rest] = request.url.slice(1).split('/');
  const serve = paths[name] ?? ((_, response) => response.writeHead(404).end('what?'));
  Promise.resolve(serve(request, response, rest)).catch(() => response.destroy());
};
const server = http.createServer({ keepAliveTimeout: 120_000 }, answer);
server.on('connection', () => connections++);
server.on('checkContinue', (request, response) => {
  if (request.url !== '/refuse') response.writeContinue();
  answer(request, response);
});
server.listen(Number(process.argv[2]), '0.0.0.0');
