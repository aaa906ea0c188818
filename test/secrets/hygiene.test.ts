import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { type FakeControlPlane, startFakeControlPlane } from '../connector/fake-control-plane.ts'
import { type JobOptions, job } from '../connector/jobs.ts'
import { TOKEN } from '../connector/setup.ts'
import { mustRun } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { startAzureStub } from './stores/azure-stub.ts'
import { selfSigned } from './stores/certificates.ts'
import { startGoogleStub } from './stores/google-stub.ts'
import { type Moto, putSecret, REGION, startMoto } from './stores/moto.ts'
import { startVaultStub, type VaultStub } from './stores/vault-stub.ts'

// Keys and passphrases that are marked (nobody else has them) go every way that a secret can go, the ways of failure above
// all; then their marks are looked for in what came out of the connector, and in the strings of its heap. The heap is
// best effort: a string that the engine has not collected yet would be found, one that was in a register would not.

const marks: string[] = []
/** The middle, so that neither a header nor padding is what is found. */
const mark = (text: string): string => {
  const bare = text.replace(/-----[^-]+-----/g, '').replaceAll('\n', '')
  marks.push(bare.slice(-64, -24))
  if (bare.length < 100) throw new Error('too short to have a middle')
  return text
}
const base64 = (text: string): string => mark(Buffer.from(text).toString('base64'))
const markedWord = (): string => {
  const word = randomBytes(24).toString('base64url')
  marks.push(word)
  return word
}

/** Of an identity: what the environment gave, which stays there for as long as the process. */
const identityMarks: string[] = []
const markedIdentity = (): string => {
  const word = randomBytes(24).toString('base64url')
  identityMarks.push(word)
  return word
}

const caFileOf = (cert: string): string => {
  const file = path.join(scratchDirectory(), 'ca.pem')
  writeFileSync(file, cert)
  return file
}

const found = (text: string): string[] => marks.filter((one) => text.includes(one))

const childOptions = ['--expose-gc', '--disable-warning=ExperimentalWarning']
const fileOf = (name: string): string => path.join(import.meta.dirname, name)

describe('a connector that fails in every way that concerns its key', () => {
  let host: TestHost
  let stranger: TestHost
  let controlPlane: FakeControlPlane
  let moto: Moto
  let vault: VaultStub
  let directory: string
  let stateDirectory: string
  let child: ChildProcess
  let output = ''
  const snapshots = { running: '', after: '' }

  const write = (name: string, text: string): SecretReference => {
    const file = path.join(directory, `${name}.json`)
    writeFileSync(file, text, { mode: 0o600 })
    return { type: 'file', path: file }
  }
  const inAws = async (name: string, value: string): Promise<SecretReference> => {
    await putSecret(moto.endpoint, { name, value, tags: { 'apono-connector-read': 'true' } })
    return { type: 'aws', region: REGION, secretId: name }
  }

  const outcomeOf = async (secretStore: SecretReference, options: JobOptions = {}): Promise<string> => {
    const plain = job({ kind: 'inspect', port: host.port, hostKeys: host.hostKeys, ...options })
    const sent = { ...plain, integration: { ...(plain['integration'] as object), secretStore } }
    controlPlane.enqueue(sent)
    const mine = () => controlPlane.reports().find((one) => 'jobId' in one && one.jobId === plain['jobId'])
    await controlPlane.until(() => mine() !== undefined, `an outcome of ${String(plain['jobId'])}`, 30_000)
    const report = mine()
    return report?.outcome === 'failed' ? report.error.code : (report?.outcome ?? '')
  }

  beforeAll(async () => {
    host = await startHost()
    stranger = await startHost()
    moto = await startMoto()
    vault = await startVaultStub()
    const secretId = markedIdentity()
    vault.admit('approle', ({ secret_id }) => secret_id === secretId)
    controlPlane = await startFakeControlPlane()
    directory = scratchDirectory()
    stateDirectory = scratchDirectory()
    snapshots.running = path.join(scratchDirectory(), 'running.heapsnapshot')
    snapshots.after = path.join(scratchDirectory(), 'after.heapsnapshot')
    const env = {
      PATH: process.env['PATH'],
      APONO_URL: controlPlane.url,
      APONO_TOKEN: TOKEN,
      APONO_CONNECTOR_ID: 'hygiene',
      APONO_HEALTH_LISTEN: 'off',
      APONO_STATE_DIR: stateDirectory,
      APONO_CLOUD_PROVIDER: 'aws',
      APONO_SECRET_DIR: directory,
      AWS_ENDPOINT_URL_SECRETS_MANAGER: moto.endpoint,
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: markedIdentity(),
      VAULT_ADDR: vault.url,
      APONO_VAULT_AUTH: 'approle',
      APONO_VAULT_ROLE_ID: 'role',
      APONO_VAULT_SECRET_ID: secretId,
      NODE_EXTRA_CA_CERTS: caFileOf(vault.certificate.cert),
    }
    child = spawn(process.execPath, [...childOptions, fileOf('hygiene-child.ts'), snapshots.running, snapshots.after], {
      env,
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        output += chunk.toString()
      })
    }
  }, 120_000)
  afterAll(async () => {
    if (child?.exitCode === null) child.kill('SIGKILL')
    await Promise.all([host?.stop(), stranger?.stop(), moto?.stop(), vault?.stop(), controlPlane?.close()])
  })

  const encrypted = async (): Promise<{ pem: string; passphrase: string }> => {
    const { privateKeyPath } = await keygen()
    const passphrase = markedWord()
    await mustRun('ssh-keygen', ['-q', '-p', '-a', '4', '-P', '', '-N', passphrase, '-f', privateKeyPath])
    return { pem: mark(readFileSync(privateKeyPath, 'utf8')), passphrase }
  }

  test('reports each of them, and its key in none', async () => {
    const good = base64(mark(host.connectorKey))
    const json = JSON.stringify({ base64_private_key: good })
    expect(await outcomeOf(write('good', json))).toBe('succeeded')
    expect(await outcomeOf(await inAws('good', json))).toBe('succeeded')

    const other = mark((await keygen()).privateKey)
    // In the private half, which the public one then does not fit.
    const damaged = `${other.slice(0, 270)}AAAAAAAA${other.slice(278)}`
    const { pem, passphrase } = await encrypted()
    const locked = base64(pem)
    const malformed = [
      mark(other),
      `"${base64(other)}"`,
      `{"base64_private_key": ${base64(other)}`,
      `{"${base64(other)}": "x"}`,
      JSON.stringify({ private_key: base64(other) }),
      JSON.stringify({ base64_private_key: base64(other).slice(0, -80) }),
      JSON.stringify({ base64_private_key: base64(damaged) }),
      JSON.stringify({ base64_private_key: locked }),
      JSON.stringify({ base64_private_key: locked, passphrase: markedWord() }),
      JSON.stringify({ base64_private_key: locked, passphrase: [passphrase] }),
    ]
    for (const [index, text] of malformed.entries()) {
      expect(await outcomeOf(write(`bad-${index}`, text)), text).toBe('secret_malformed')
      expect(await outcomeOf(await inAws(`bad-${index}`, text)), text).toBe('secret_malformed')
    }
    const inVault = (name: string, data: object): SecretReference => {
      vault.put('kv2', name, data)
      return { type: 'hashicorp_vault', secretEngine: 'kv2', path: name }
    }
    expect(await outcomeOf(inVault('good', { base64_private_key: good }))).toBe('succeeded')
    expect(await outcomeOf(inVault('bad', { private_key: base64(other), base64_private_key: 7 }))).toBe(
      'secret_malformed',
    )
    vault.forbid('denied')
    expect(await outcomeOf(inVault('denied', { base64_private_key: good }))).toBe('secret_access_denied')
    expect(await outcomeOf({ type: 'hashicorp_vault', secretEngine: 'aws', path: 'creds' })).toBe(
      'secret_access_denied',
    )
    marks.push(...vault.tokenNames())
    expect(vault.tokenNames().length).toBe(1)

    expect(await outcomeOf(write('refused', JSON.stringify({ base64_private_key: locked, passphrase })))).toBe(
      'ssh_auth_failed',
    )
    expect(await outcomeOf(write('open', json), { port: 1 })).toBe('ssh_unreachable')
    expect(await outcomeOf(write('open', json), { port: stranger.port })).toBe('host_key_changed')
    const next = JSON.stringify({
      base64_private_key: good,
      base64_private_key_next: base64(`no key: ${randomBytes(96).toString('base64url')}`),
      passphrase_next: markedWord(),
    })
    expect(await outcomeOf(write('next', next))).toBe('succeeded')
    expect(await outcomeOf({ type: 'azure', vaultUrl: 'https://x.vault.azure.net', name: 'ssh' })).toBe(
      'secret_store_mismatch',
    )
    expect(marks.length).toBeGreaterThan(15)
    expect(found(JSON.stringify(controlPlane.seen))).toEqual([])
    expect(identityMarks.filter((one) => JSON.stringify(controlPlane.seen).includes(one))).toEqual([])
  })

  test('holds, while it runs, no passphrase and nothing that it could not open', async () => {
    child.kill('SIGUSR2')
    await expect.poll(() => output, { timeout: 30_000 }).toContain(snapshots.running)
    // Keys that are in use are the connector's to hold, as ssh2 keeps them; nothing else.
    const used = new Set(found(await heapOf(snapshots.running)))
    const tokens = vault.tokenNames()
    const held = marks.filter((one) => used.has(one) && !tokens.includes(one))
    expect(held.filter((one) => !Buffer.from(host.connectorKey).toString().replaceAll('\n', '').includes(one))).toEqual(
      [],
    )
  })

  test('wrote none of it in a log, an error or a file, and holds none of it when it has ended', async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    expect(await ended, output).toBe(0)
    expect(output).toContain('"event":"stopped"')
    expect(found(output)).toEqual([])
    expect(identityMarks.filter((one) => output.includes(one))).toEqual([])
    expect(found(await heapOf(snapshots.after))).toEqual([])
    const written = readdirSync(stateDirectory).map((name) => readFileSync(path.join(stateDirectory, name), 'latin1'))
    expect(written.length).toBeGreaterThan(0)
    expect(found(written.join())).toEqual([])
    expect(vault.tokens()).toBe(0)
  })
})

const heapOf = async (file: string): Promise<string> => {
  const text = readFileSync(file, 'utf8')
  // It would find what is there.
  expect(text).toContain('hygiene')
  return text
}

describe('a store that was read and closed', () => {
  const SECRET = { base64_private_key: '', passphrase: '' }
  beforeAll(async () => {
    SECRET.base64_private_key = base64(mark((await keygen()).privateKey))
    SECRET.passphrase = markedWord()
  })

  const stores: Record<string, () => Promise<{ reference: SecretReference; environment: Record<string, string> }>> = {
    aws: async () => {
      const moto = await startMoto()
      onTestFinished(() => moto.stop())
      await putSecret(moto.endpoint, {
        name: 'x',
        value: JSON.stringify(SECRET),
        tags: { 'apono-connector-read': 'true' },
      })
      const keys = {
        AWS_ACCESS_KEY_ID: 'a',
        AWS_SECRET_ACCESS_KEY: 'b',
        AWS_ENDPOINT_URL_SECRETS_MANAGER: moto.endpoint,
      }
      return {
        reference: { type: 'aws', region: REGION, secretId: 'x' },
        environment: { APONO_CLOUD_PROVIDER: 'aws', ...keys },
      }
    },
    azure: async () => {
      const stub = await startAzureStub()
      onTestFinished(() => stub.stop())
      stub.put({ name: 'x', value: JSON.stringify(SECRET) })
      const { endpoint, header } = stub.identity
      const environment = { TEST_AZURE: '1', IDENTITY_ENDPOINT: endpoint, IDENTITY_HEADER: header }
      return {
        reference: { type: 'azure', vaultUrl: stub.vaultUrl, name: 'x' },
        environment: { ...environment, NODE_EXTRA_CA_CERTS: caFileOf(stub.certificate.cert) },
      }
    },
    gcp: async () => {
      const certificate = await selfSigned({ names: ['localhost'] })
      const stub = await startGoogleStub({ certificate })
      onTestFinished(() => void stub.stop())
      stub.put('projects/p/secrets/x', JSON.stringify(SECRET))
      const environment = {
        TEST_GCP_ENDPOINT: 'localhost',
        TEST_GCP_PORT: String(stub.port),
        NODE_EXTRA_CA_CERTS: caFileOf(certificate.cert),
      }
      return { reference: { type: 'gcp', project: 'p', secretId: 'x' }, environment }
    },
    hashicorp_vault: async () => {
      const stub = await startVaultStub()
      onTestFinished(() => stub.stop())
      stub.put('kv2', 'x', SECRET)
      const environment = {
        VAULT_ADDR: stub.url,
        VAULT_TOKEN: stub.rootToken,
        NODE_EXTRA_CA_CERTS: caFileOf(stub.certificate.cert),
      }
      return { reference: { type: 'hashicorp_vault', secretEngine: 'kv2', path: 'x' }, environment }
    },
  }

  test.each(Object.keys(stores))('%s leaves nothing in the heap', async (name) => {
    const { reference, environment } = await (stores[name] as () => ReturnType<(typeof stores)['aws'] & object>)()
    const file = path.join(scratchDirectory(), 'x.heapsnapshot')
    const env = { PATH: process.env['PATH'] ?? '', APONO_SECRET_DIR: '/nowhere', TEST_SNAPSHOT: file, ...environment }
    const args = [...childOptions, fileOf('stores/read-child.ts'), JSON.stringify(reference)]
    const { stdout } = await promisify(execFile)(process.execPath, args, { env })
    expect(JSON.parse(stdout)).toMatchObject({ key: expect.stringMatching(/^[0-9a-f]{64}$/) })
    const heap = readFileSync(file, 'utf8')
    expect(heap).toContain(name === 'hashicorp_vault' ? 'kv2' : 'secretId')
    expect(found(heap)).toEqual([])
  })
})
