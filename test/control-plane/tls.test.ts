import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { get } from 'node:https'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { start, tempFolder } from './harness.ts'

const run = promisify(execFile)

const certificate = async () => {
  const folder = await tempFolder()
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1']
  await run('openssl', [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-days',
    '1',
    '-keyout',
    key,
    '-out',
    cert,
    ...subject,
  ])
  return { cert, key }
}

const status = (url: string, ca: Buffer): Promise<number | undefined> =>
  new Promise((resolve, reject) => {
    get(url, { ca, agent: false }, (response) => {
      response.resume()
      resolve(response.statusCode)
    }).on('error', reject)
  })

test('with certificate files it speaks TLS 1.2 or later and nothing else', async () => {
  const { cert, key } = await certificate()
  const world = await start({ env: { APONO_TLS_CERT_FILE: cert, APONO_TLS_KEY_FILE: key } })
  const { url } = world.controlPlane
  expect(url).toMatch(/^https:/)
  const ca = await readFile(cert)
  expect(await status(`${url}/healthz`, ca)).toBe(200)
  expect(await status(`${url}/api/v1/users/me`, ca)).toBe(401)
  const port = Number(new URL(url).port)
  const old = new Promise((_resolve, reject) => {
    connect({
      port,
      host: '127.0.0.1',
      ca,
      minVersion: 'TLSv1',
      maxVersion: 'TLSv1.1',
      ciphers: 'DEFAULT@SECLEVEL=0',
    }).on('error', reject)
  })
  await expect(old).rejects.toThrow()
  await expect(fetch(url.replace('https:', 'http:'))).rejects.toThrow()
})

test('a key file that is not there is an error at start', async () => {
  const { cert } = await certificate()
  await expect(start({ env: { APONO_TLS_CERT_FILE: cert, APONO_TLS_KEY_FILE: '/nowhere' } })).rejects.toThrow(/ENOENT/)
})
