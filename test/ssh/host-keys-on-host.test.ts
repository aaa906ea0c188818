import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { type HostKeyRules, hostKeyRules } from '../../src/ssh/host-keys.ts'
import { keyFinder, parseKnownHosts } from '../../src/ssh/known-hosts.ts'
import { connectSsh } from '../../src/ssh/session.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen, sshLogin } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { DEADLINES } from './deadlines.ts'
import { plainKey } from './plain-key.ts'

// A real server with an ed25519 and an ECDSA key, and the same known_hosts given to us and to OpenSSH's own client.

const PATH = join(scratchDirectory(), 'known_hosts')

let host: TestHost
let key: LoginKey
/** Two of the server's keys, one of another, one of an authority. */
let [ed, ecdsa, other, authority] = ['', '', '', '']

beforeAll(async () => {
  host = await startHost({})
  key = plainKey(host.connectorKey)
  const { stdout } = await host.exec('cut -d " " -f 1-2 /etc/ssh/ssh_host_*_key.pub')
  ed = stdout.split('\n').find((line) => line.startsWith('ssh-ed25519 ')) ?? ''
  ecdsa = stdout.split('\n').find((line) => line.startsWith('ecdsa-')) ?? ''
  other = (await keygen()).publicKey
  authority = (await keygen()).publicKey
}, 120_000)
afterAll(() => host?.stop())

const fingerprint = (line: string): string => {
  const file = join(scratchDirectory(), 'key.pub')
  writeFileSync(file, `${line}\n`)
  return execFileSync('ssh-keygen', ['-lf', file], { encoding: 'utf8' }).split(' ')[1] ?? ''
}

/** Null: logged in. */
const ours = async (rules: HostKeyRules): Promise<JobError | null> => {
  const addresses = [{ address: host.address, family: 4 } as const]
  const server = { host: host.address, port: host.port, user: host.user, addresses }
  try {
    const session = await connectSsh(server, [key], rules, { clock: systemClock, deadlines: DEADLINES })
    await session.close()
    return null
  } catch (error) {
    if (error instanceof JobError) return error
    throw error
  }
}

const rulesOf = (text: string, policy: HostKeyRules['policy'] = 'pinned', hostKeys: string[] = []): HostKeyRules =>
  hostKeyRules({ host: host.address, port: host.port, hostKeys }, policy, {
    path: PATH,
    find: keyFinder(parseKnownHosts(text)),
  })

const openSsh = async (text: string): Promise<boolean> => {
  writeFileSync(PATH, text)
  const settings = [`UserKnownHostsFile=${PATH}`]
  const { user, connectorKeyPath: privateKeyPath } = host
  return (await sshLogin({ host, user, privateKeyPath, settings, command: 'true' })).code === 0
}

const hashed = (text: string): string => {
  writeFileSync(PATH, text)
  execFileSync('ssh-keygen', ['-q', '-H', '-f', PATH], { stdio: 'ignore' })
  return execFileSync('cat', [PATH], { encoding: 'utf8' })
}

describe('known_hosts against a real server, as ssh takes it', () => {
  const rows: [string, () => string, string | null][] = [
    ['its key', () => `[127.0.0.1]:${host.port} ${ed}`, null],
    ['another of its keys', () => `[127.0.0.1]:${host.port} ${ecdsa}`, null],
    ['its key by a pattern', () => `[127.0.0.*]:* ${ed} comment`, null],
    ['its key, hashed', () => hashed(`[127.0.0.1]:${host.port} ${ed}\n`), null],
    ['its key among others', () => `* ${other}\n[127.0.0.1]:${host.port} ${ed}`, null],
    ['another key', () => `[127.0.0.1]:${host.port} ${other}`, 'host_key_changed'],
    ['another key, and its own of another type', () => `* ${other}\n* ${ecdsa}`, 'host_key_changed'],
    ['nothing', () => '# nothing\n', 'host_key_unknown'],
    ['a name that is taken out again', () => `*,!*127.0.0.1* ${ed}`, 'host_key_unknown'],
    ['port 22', () => `[127.0.0.1]:22 ${ed}`, 'host_key_unknown'],
    ['its key, revoked', () => `* ${ed}\n@revoked * ${ed}`, 'host_key_revoked'],
    ['its key, revoked, and the other one known', () => `* ${ecdsa}\n* ${ed}\n@revoked * ${ed}`, null],
    ['an authority', () => `@cert-authority * ${authority}`, 'host_key_unknown'],
    ['an authority and its key', () => `@cert-authority * ${authority}\n* ${ed}`, null],
  ]
  test.each(rows)('%s', async (_name, text, expected) => {
    const error = await ours(rulesOf(text()))
    expect(error?.code ?? null).toBe(expected)
    const client = await openSsh(text())
    expect(client).toBe(expected === null)
  })

  test('where we are stricter: the bare name is no key of another port, and revokes at every port', async () => {
    expect((await ours(rulesOf(`127.0.0.1 ${ed}`)))?.code).toBe('host_key_unknown')
    expect(await openSsh(`127.0.0.1 ${ed}`)).toBe(true)
    const revoked = `* ${ed}\n@revoked 127.0.0.1 ${ed}`
    expect((await ours(rulesOf(revoked)))?.code).toBe('host_key_revoked')
    expect(await openSsh(revoked)).toBe(true)
  })
})

describe('a refused key', () => {
  test('that changed is shown with both fingerprints, and where to put it', async () => {
    const pinned = hostKeyRules({ host: 'x', port: 1, hostKeys: [other] }, 'trust_on_first_use', null)
    const error = await ours(pinned)
    expect(error?.message).toBe(
      `the server shows ssh-ed25519 ${fingerprint(ed)}; known from the integration: ssh-ed25519 ${fingerprint(other)}`,
    )
    expect(error?.hint).toContain('ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub')
    expect(error?.hint).toContain('host_keys of this server in the integration')
  })

  test('that differs from known_hosts names that file, whatever the integration pins', async () => {
    const error = await ours(rulesOf(`* ${other}`, 'trust_on_first_use', [ed]))
    expect(error?.code).toBe('host_key_changed')
    expect(error?.message).toContain(`known from ${PATH}: ssh-ed25519 ${fingerprint(other)}`)
    expect(error?.hint).toContain(`into ${PATH} on the connector`)
  })

  test('of a type that the server has no more: what is known is shown', async () => {
    const gone = (await keygen(undefined, 'rsa')).publicKey
    const error = await ours(hostKeyRules({ host: 'x', port: 1, hostKeys: [gone] }, 'pinned', null))
    expect(error?.code).toBe('host_key_changed')
    expect(error?.message).toBe(
      `the server has no host key of type ssh-rsa; known from the integration: ssh-rsa ${fingerprint(gone)}`,
    )
  })

  test('of a type that nobody can check: what the server has is shown all the same', async () => {
    const dss = `ssh-dss ${Buffer.from('\0\0\0\u0007ssh-dss', 'latin1').toString('base64')}`
    const error = await ours(hostKeyRules({ host: 'x', port: 1, hostKeys: [dss] }, 'pinned', null))
    expect(error).toMatchObject({ code: 'host_key_changed' })
    expect(error?.message).toContain(fingerprint(ed))
  })

  test('that is revoked, or stands under an authority only, is named; no login is tried, first use or not', async () => {
    const revoked = await ours(rulesOf(`@revoked * ${ed}`, 'trust_on_first_use', [ed]))
    expect(revoked?.code).toBe('host_key_revoked')
    expect(revoked?.message).toContain(`shows ssh-ed25519 ${fingerprint(ed)}`)
    const unsigned = await ours(rulesOf(`@cert-authority * ${authority}`, 'trust_on_first_use'))
    expect(unsigned?.code).toBe('host_key_unknown')
    expect(unsigned?.message).toContain(`${PATH} has only @cert-authority for it`)
    expect(unsigned?.hint).toContain(`into ${PATH} on the connector`)
    expect(await ours(rulesOf(`@cert-authority * ${authority}`, 'trust_on_first_use', [ed]))).toBeNull()
  })
})
