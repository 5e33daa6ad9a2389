// An object store until it is killed: DIRECTORY PORT [KEY CERTIFICATE]. It has one bucket, flows.
const fs = require('node:fs');
const S3rver = require('@20minutes/s3rver');

const [directory, port, key, cert] = process.argv.slice(2);
const tls = key ? { key: fs.readFileSync(key), cert: fs.readFileSync(cert) } : {};
const options = { address: '127.0.0.1', port: Number(port), directory, vhostBuckets: false, silent: false };
new S3rver({ ...options, ...tls, configureBuckets: [{ name: 'flows' }] }).run().then(() => console.log('listening'));
