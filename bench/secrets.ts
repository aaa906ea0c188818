import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '../src/observability/clock.ts'
import type { SecretReference } from '../src/protocol/integration.ts'
import { keygen } from '../test/hosts/openssh.ts'
import { scratchDirectory } from '../test/hosts/scratch.ts'
import { ringOf } from '../test/secrets/rings.ts'
import { startAzureStub } from '../test/secrets/stores/azure-stub.ts'
import { selfSigned } from '../test/secrets/stores/certificates.ts'
import { startGoogleStub } from '../test/secrets/stores/google-stub.ts'
import { putSecret, startMoto } from '../test/secrets/stores/moto.ts'
import { againstTarget, asked, type Figure, median, type Subject } from './measure.ts'

/**
 * What secret stores cost a connector: nothing where none is used (beside the same connector in a copy that has no SDK of
 * a cloud at all), next to nothing where a key is remembered, and how much memory where one SDK is in use. Processes run
 * as in the image, from a compile cache that was filled before.
 */

const project = join(import.meta.dirname, '..')
const SDKS = ['@aws-sdk', '@aws-crypto', '@smithy', '@azure', '@azure-rest', '@typespec', '@google-cloud', '@grpc']
const SDK_PACKAGES = [
  'google-gax',
  'google-auth-library',
  'gaxios',
  'gcp-metadata',
  'proto3-json-serializer',
  'protobufjs',
]

interface Told {
  readonly started: number
  readonly rssMiB: number
}

const run = async (
  folder: string,
  cache: string,
  args: readonly string[],
  more: NodeJS.ProcessEnv = {},
): Promise<Told> => {
  const env = { PATH: process.env['PATH'], NODE_ENV: 'production', NODE_COMPILE_CACHE: cache, ...more }
  const { stdout } = await promisify(execFile)(process.execPath, [join(folder, 'bench/secrets-child.ts'), ...args], {
    env,
  })
  return JSON.parse(stdout) as Told
}

/** This checkout, with the packages as links; `without`: as if those had never been installed. */
const copyOf = (without: readonly string[]): string => {
  const folder = mkdtempSync(join(tmpdir(), 'apono-bench-'))
  for (const part of ['src', 'package.json']) cpSync(join(project, part), join(folder, part), { recursive: true })
  mkdirSync(join(folder, 'bench'))
  cpSync(join(project, 'bench/secrets-child.ts'), join(folder, 'bench/secrets-child.ts'))
  mkdirSync(join(folder, 'node_modules'))
  for (const name of readdirSync(join(project, 'node_modules'))) {
    if (!without.includes(name)) symlinkSync(join(project, 'node_modules', name), join(folder, 'node_modules', name))
  }
  return folder
}

const ROUNDS = 15

const startUnused = async (): Promise<Figure> => {
  const folders = [copyOf([]), copyOf([...SDKS, ...SDK_PACKAGES])] as const
  try {
    const times: [number[], number[]] = [[], []]
    for (let round = 0; round <= ROUNDS; round++) {
      for (const [index, folder] of folders.entries()) {
        const { started } = await run(folder, join(folder, 'cache'), ['none'])
        // The first fills the cache.
        if (round > 0) times[index]?.push(started)
      }
    }
    const [value, peerValue] = [median(times[0]), median(times[1])]
    const peer = 'the same without the SDKs installed'
    return { name: 'secrets.start_unused', value, unit: 'ms', peer, peerValue, ratio: value / peerValue }
  } finally {
    for (const folder of folders) rmSync(folder, { recursive: true })
  }
}

const cachedRead = async (): Promise<Figure> => {
  const { privateKey } = await keygen()
  const reference: SecretReference = { type: 'aws', region: 'eu-central-1', secretId: 'bench' }
  const text = JSON.stringify({ base64_private_key: Buffer.from(privateKey).toString('base64') })
  const { materialOf } = await import('../src/secrets/material.ts')
  const stores = { types: ['aws'] as const, askAlways: () => false, close: async () => undefined }
  const ring = ringOf({ ...stores, read: async () => materialOf(text, '1') }, systemClock)
  const micros: number[] = []
  for (let n = 0; n < 20_000; n++) {
    const began = performance.now()
    await ring.get(reference, undefined)
    micros.push(performance.now() - began)
  }
  ring.dispose()
  return againstTarget('secrets.cached_read', median(micros), 'ms', 0.05)
}

const SECRET = JSON.stringify({ base64_private_key: 'a2V5' })

const counterparts: Record<string, () => Promise<{ address: string; env: NodeJS.ProcessEnv; stop(): unknown }>> = {
  aws: async () => {
    const moto = await startMoto()
    await putSecret(moto.endpoint, { name: 'bench', value: SECRET, tags: { 'apono-connector-read': 'true' } })
    const env = { AWS_ENDPOINT_URL_SECRETS_MANAGER: moto.endpoint, AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' }
    return { address: '', env, stop: moto.stop }
  },
  azure: async () => {
    const stub = await startAzureStub()
    stub.put({ name: 'bench', value: SECRET })
    const { endpoint, header } = stub.identity
    const env = {
      IDENTITY_ENDPOINT: endpoint,
      IDENTITY_HEADER: header,
      NODE_EXTRA_CA_CERTS: fileOf(stub.certificate.cert),
    }
    return { address: stub.vaultUrl, env, stop: stub.stop }
  },
  gcp: async () => {
    const certificate = await selfSigned({ names: ['localhost'] })
    const stub = await startGoogleStub({ certificate })
    stub.put('projects/bench/secrets/bench', SECRET)
    return { address: String(stub.port), env: { NODE_EXTRA_CA_CERTS: fileOf(certificate.cert) }, stop: stub.stop }
  },
}

const fileOf = (text: string): string => {
  const file = join(scratchDirectory(), 'ca.pem')
  writeFileSync(file, text)
  return file
}

/** The largest of the three: each is measured five times. */
const rssOneSdk = async (): Promise<Figure> => {
  const cache = scratchDirectory()
  const found: Record<string, number> = {}
  for (const [kind, start] of Object.entries(counterparts)) {
    const { address, env, stop } = await start()
    try {
      const all: number[] = []
      for (let n = 0; n <= 5; n++) all.push((await run(project, cache, [kind, address], env)).rssMiB)
      found[kind] = median(all.slice(1))
    } finally {
      await stop()
    }
  }
  const each = Object.entries(found).map(([kind, rss]) => `${kind} ${rss.toFixed(0)}`)
  const figure = againstTarget('secrets.rss_one_sdk', Math.max(...Object.values(found)), 'MiB', 130)
  return { ...figure, peer: `our own limit (${each.join(', ')})` }
}

const figures = {
  'secrets.start_unused': startUnused,
  'secrets.cached_read': cachedRead,
  'secrets.rss_one_sdk': rssOneSdk,
}

export const secrets: Subject = async function* (only) {
  for (const [name, measure] of Object.entries(figures)) if (asked(only, name)) yield await measure()
}
