import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mustRun } from '../../hosts/command.ts'
import { scratchDirectory } from '../../hosts/scratch.ts'

/** PEM. Self-signed: who trusts `cert` as an authority trusts this server. */
export type Certificate = { cert: string; key: string }

export type CertificateOptions = {
  /** Default: localhost and 127.0.0.1. */
  names?: readonly string[]
  /** From now; negative for one that has expired. Default 1. */
  days?: number
}

export const selfSigned = async ({ names = ['localhost', '127.0.0.1'], days = 1 }: CertificateOptions = {}) => {
  const folder = scratchDirectory()
  const [cert, key, request] = ['cert.pem', 'key.pem', 'request.pem'].map((name) => join(folder, name)) as Paths
  const extension = ['-addext', `subjectAltName=${names.map(alternativeName).join(',')}`]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  await mustRun('openssl', [
    'req',
    '-new',
    ...curve,
    '-keyout',
    key,
    '-out',
    request,
    '-subj',
    `/CN=${randomUUID()}`,
    ...extension,
  ])
  const by = ['-signkey', key, '-copy_extensions', 'copy', '-days', String(days)]
  await mustRun('openssl', ['x509', '-req', '-in', request, ...by, '-out', cert])
  return { cert: await readFile(cert, 'utf8'), key: await readFile(key, 'utf8') } satisfies Certificate
}

type Paths = [string, string, string]

const alternativeName = (name: string): string => (/^[0-9.]+$|:/.test(name) ? `IP:${name}` : `DNS:${name}`)
