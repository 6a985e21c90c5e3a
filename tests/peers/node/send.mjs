// Hands in a message by nodemailer, told by one line of JSON on standard input:
//
//   { module, host, port, ca, user, token }
//
// It logs in with XOAUTH2 over STARTTLS, prints the conversation, and ends with 1 when it was refused.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const told = JSON.parse(readFileSync(0, 'utf8'));
const nodemailer = createRequire(import.meta.url)(told.module);
const print = (entry, ...words) => console.log(...words);
const transport = nodemailer.createTransport({
  host: told.host,
  port: told.port,
  requireTLS: true,
  tls: { ca: readFileSync(told.ca), servername: 'localhost' },
  auth: { type: 'OAuth2', user: told.user, accessToken: told.token },
  logger: { info: print, debug: print, trace: print, warn: print, error: print },
  debug: true,
});
try {
  await transport.sendMail({ from: told.user, to: 'bob@example.net', subject: 'By token', text: 'Text' });
} catch (error) {
  console.log('refused:', error.code, error.responseCode);
  process.exitCode = 1;
}
transport.close();
