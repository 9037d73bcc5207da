# `npm install` of a small project, then `npm ci` from the lock file that it wrote, and the program with what was installed.
set -e
place=$(mktemp -d)
cd "$place"
export HOME=$place
cat >package.json <<'J'
{"name": "small", "version": "1.0.0", "private": true, "dependencies": {"express": "4.21.2", "lodash": "4.17.21"}, "devDependencies": {"mocha": "10.8.2"}}
J
cat >test.js <<'J'
const assert = require('assert'), express = require('express'), http = require('http'), _ = require('lodash');
describe('small', () => {
  it('adds', () => assert.equal(_.sum([40, 2]), 42));
  it('serves', done => {
    const server = express().get('/', (_, answer) => answer.send('served')).listen(0, '127.0.0.1', () => {
      http.get({port: server.address().port, host: '127.0.0.1'}, answer => { assert.equal(answer.statusCode, 200); server.close(done); });
    });
  });
});
J
npm install --no-audit --no-fund --silent
rm -rf node_modules
npm ci --no-audit --no-fund --silent
ls node_modules | wc -l
node_modules/.bin/mocha test.js 2>&1 | grep -oE '[0-9]+ (passing|failing)'
cd /; rm -rf "$place"
