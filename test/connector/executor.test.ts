import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { readCertificate } from '../../src/certificates/reread.ts'
import { type ExecutorDeps, executeJob } from '../../src/connector/executor.ts'
import { defaultGuard } from '../../src/connector/guard.ts'
import { hostKeySource } from '../../src/connector/known-hosts-file.ts'
import { createLeases } from '../../src/connector/leases.ts'
import { type ErrorCode, JobError } from '../../src/host/errors.ts'
import type { EnsureRequest, HostProgram, PresentReply } from '../../src/host/host-program.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { JobHead } from '../../src/protocol/job.ts'
import { JobFailure } from '../../src/protocol/results.ts'
import { type KeySource, keySource } from '../../src/secrets/key-ring.ts'
import type { HostKeyRules } from '../../src/ssh/host-keys.ts'
import type { Pool } from '../../src/ssh/pool.ts'
import { keygen } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { fileRing } from '../secrets/rings.ts'
import { type JobOptions, job } from './jobs.ts'
import { configOf, noHostProgram, secretDirectory } from './setup.ts'

// The order of things in one job. The server's side is scripted here, because what is asked is what the executor does
// with an answer that a real server gives once in a thousand times; connector-on-host.test.ts has the real one.

const HOST_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1'
const JUMP_KEY = HOST_KEY.replace('aaM1', 'aaM3')
const REPLY: PresentReply = {
  hostId: 'h_1',
  uid: 20000,
  createdLogin: true,
  groupsAdded: ['dbadmins'],
  trust: 'root_file',
  onHostExpiry: 'logins',
  assurance: 'observed',
  changed: true,
}
let directory: string
beforeAll(async () => {
  directory = secretDirectory((await keygen()).privateKey)
})

type Step = PresentReply | ErrorCode | JobError | (() => ErrorCode)

/** Leaves no timer behind. */
const timeless = { ...systemClock, sleep: () => new Promise<never>(() => undefined) }

const RIGHT = { ms: () => 0, now: () => Date.now(), isSane: () => true }

const run = async (
  options: JobOptions,
  steps: Step[],
  prepare: (callOff: () => void, expire: () => void) => void = () => undefined,
  seenHostKeys: readonly string[] = [HOST_KEY],
  keys = fileRing(directory, timeless),
  knownHosts: string | null = null,
  secretDirectory = directory,
  skew: ExecutorDeps['skew'] = RIGHT,
) => {
  const requests: EnsureRequest[] = []
  const given: HostKeyRules[] = []
  const keyVersions: string[] = []
  let connections = 0
  const pool: Pick<Pool, 'use'> = {
    use: async ({ jumps, target }, { onHostKey }, work) => {
      connections++
      const { server } = target
      given.push(target.rules)
      keyVersions.push(target.key.version)
      for (const hop of jumps) onHostKey?.(hop, JUMP_KEY)
      for (const line of seenHostKeys) onHostKey?.(target, line)
      const link = {
        user: server.user,
        host: server.host,
        port: server.port,
        serverSoftware: 'OpenSSH_9.2',
        hostKey: HOST_KEY,
      }
      return await work({ ...link, exec: () => Promise.reject(new Error('scripted')) })
    },
  }
  const hostProgram: HostProgram = {
    ...noHostProgram,
    ensurePresent: async (_link, _context, request) => {
      requests.push(request)
      const step = steps.shift() ?? 'internal_error'
      if (typeof step === 'string') throw new JobError(step, step)
      if (step instanceof JobError) throw step
      if (typeof step === 'function') {
        const code = step()
        throw new JobError(code, code)
      }
      return step
    },
  }
  const config = configOf({ APONO_URL: 'https://x.example', APONO_SECRET_DIR: directory })
  const raw = job({ secretPath: path.join(directory, 'ssh.json'), host: 'server', ...options })
  const head = JobHead.parse(raw)
  let elapsed = 0
  const leases = createLeases({ ...systemClock, monotonic: () => elapsed })
  const lease = leases.add(head, 60_000, 0)
  if (lease === null) throw new Error('no lease')
  prepare(
    () => leases.callOff(head, 'called off'),
    () => {
      elapsed = 41_000
    },
  )
  const outcome = await executeJob(raw, head, lease, {
    clock: systemClock,
    random: randomBytes,
    guard: defaultGuard({
      clock: systemClock,
      resolve: async () => [{ address: '10.0.0.1', family: 4 }],
      resolveTimeoutMs: 1000,
      secretDirectory,
      allowLoopback: false,
    }),
    keys,
    pool,
    hostKeys: hostKeySource(knownHosts, systemClock),
    hostProgram,
    deadlines: config.deadlines,
    skew,
    controlPlaneId: () => 'cp_test',
  })
  return { outcome, requests, connections, given, keyVersions }
}

describe('the executor', () => {
  test('makes a result of what the server did, the certificate and the key that the server proved', async () => {
    const { outcome, requests } = await run({ hostKeys: [] }, [REPLY])
    if (outcome.outcome !== 'succeeded' || !('certificate' in outcome.result)) throw new Error(JSON.stringify(outcome))
    const { certificate, validAfter, validBefore, hostKeys } = outcome.result
    const facts = readCertificate(certificate ?? '')
    expect(requests[0]?.authority).toBe(facts.authority)
    expect([Date.parse(validAfter ?? ''), Date.parse(validBefore)]).toEqual([facts.after * 1000, facts.before * 1000])
    expect(hostKeys).toEqual([HOST_KEY])
  })

  test('gives no access while the clocks of connector and control plane are more than a minute apart', async () => {
    const skew = { ms: () => -61_400, now: () => Date.now() - 61_400, isSane: () => false }
    const { outcome, connections } = await run({}, [REPLY], undefined, undefined, undefined, null, undefined, skew)
    const message = "the control plane's clock is -61 s from the connector's"
    expect(outcome).toMatchObject({ error: { code: 'connector_clock_skew', message, retryable: true } })
    expect(connections).toBe(0)
    const ended = await run({ grant: { state: 'absent' } }, [], undefined, undefined, undefined, null, undefined, skew)
    expect(ended.connections).toBe(1)
  })

  test('issue: false mints nothing', async () => {
    const { outcome, requests } = await run({ grant: { issue: false } }, [REPLY])
    expect(requests[0]?.authority).toBeNull()
    expect(outcome).toMatchObject({ outcome: 'succeeded', result: { certificate: null, validAfter: null } })
  })

  test.each(['connection_lost', 'interrupted'] as const)(
    '%s: runs once more, on a new connection, with the same certificate',
    async (code) => {
      const { outcome, requests, connections } = await run({}, [code, REPLY])
      expect(outcome.outcome).toBe('succeeded')
      expect(connections).toBe(2)
      expect(requests[1]).toEqual(requests[0])
    },
  )

  test('a second loss is the outcome', async () => {
    const { outcome, connections } = await run({}, ['connection_lost', 'connection_lost', REPLY])
    expect(outcome).toMatchObject({ outcome: 'failed', error: { code: 'connection_lost', retryable: true } })
    expect(connections).toBe(2)
  })

  test.each(['group_missing', 'ssh_auth_failed', 'host_busy'] as const)('%s is not tried again', async (code) => {
    const { outcome, connections } = await run({}, [code, REPLY])
    expect(outcome).toMatchObject({ outcome: 'failed', error: { code } })
    expect(connections).toBe(1)
  })

  test('two thirds of the lease gone: nothing is connected, and nothing run again', async () => {
    const late = await run({}, [REPLY], (_callOff, expire) => expire())
    expect(late).toMatchObject({ connections: 0, outcome: { error: { code: 'cancelled' } } })
    let expire = (): void => undefined
    const end = (): ErrorCode => {
      expire()
      return 'connection_lost'
    }
    const again = await run({}, [end, REPLY], (_callOff, later) => {
      expire = later
    })
    expect(again).toMatchObject({ connections: 1, outcome: { error: { code: 'cancelled' } } })
  })

  test('called off during the run is what the outcome says, whatever it ran into', async () => {
    let callOff = (): void => undefined
    const end = (): ErrorCode => {
      callOff()
      return 'group_missing'
    }
    const { outcome, connections } = await run({}, [end, REPLY], (off) => {
      callOff = off
    })
    expect(outcome).toMatchObject({ error: { code: 'cancelled', message: 'called off' } })
    expect(connections).toBe(1)
  })

  test.each([
    ['elsewhere', [JUMP_KEY]],
    ['server', []],
  ])('reports what a jump host at %s showed, and nothing where the server has the same address', async (host, keys) => {
    const { outcome } = await run({ hostKeys: [], jumps: [{ host, user: 'apono' }] }, [REPLY])
    expect(outcome).toMatchObject({ result: { hostKeys: [HOST_KEY], jumps: [{ host, port: 22, hostKeys: keys }] } })
  })

  test('a key in known_hosts wins over the pinned one, in what is asked for and in what is reported', async () => {
    const known = path.join(scratchDirectory(), 'known_hosts')
    writeFileSync(known, `server ${HOST_KEY}\n`)
    const pinned = HOST_KEY.replace('aaM1', 'aaM2')
    const { outcome, given } = await run({ hostKeys: [pinned] }, [REPLY], undefined, undefined, undefined, known)
    expect(given).toMatchObject([{ known: [HOST_KEY], decidedBy: known }])
    expect(outcome).toMatchObject({ outcome: 'succeeded', result: { hostKeys: [HOST_KEY] } })
    const without = await run({ hostKeys: [pinned] }, [REPLY])
    expect(without.given).toMatchObject([{ known: [pinned], decidedBy: null }])
    expect(without.outcome).toMatchObject({ result: { hostKeys: [HOST_KEY, pinned] } })
  })

  test('a known_hosts that cannot be read is the outcome, and nothing is connected', async () => {
    const gone = path.join(scratchDirectory(), 'known_hosts')
    const { outcome, connections } = await run({}, [REPLY], undefined, undefined, undefined, gone)
    expect(outcome).toMatchObject({ error: { code: 'known_hosts_unreadable', retryable: true } })
    expect(connections).toBe(0)
  })

  test.each(['host_key_unknown', 'host_key_revoked'] as const)('%s names the key', async (code) => {
    expect((await run({}, [code])).outcome).toMatchObject({ error: { code, hostKeys: [HOST_KEY] } })
  })

  test('a refused host key is named; in other failures it is not', async () => {
    const changed = await run({}, ['host_key_changed'])
    expect(changed.outcome).toMatchObject({ error: { code: 'host_key_changed', hostKeys: [HOST_KEY] } })
    const other = await run({}, ['group_missing'])
    expect(other.outcome.outcome === 'failed' && other.outcome.error.hostKeys).toBeUndefined()
  })

  test('a result that does not fit the protocol is a failure, not a poisoned report', async () => {
    const { outcome } = await run({}, [{ ...REPLY, hostId: '../../x' }])
    expect(outcome).toMatchObject({ outcome: 'failed', error: { code: 'internal_error' } })
  })

  test('a refused key is asked for again, and the job goes on with the one that the store has now', async () => {
    const own = secretDirectory((await keygen()).privateKey)
    const other = JSON.stringify({ base64_private_key: Buffer.from((await keygen()).privateKey).toString('base64') })
    const keys = fileRing(own, timeless)
    const secretPath = path.join(own, 'ssh.json')
    const refuseAndChange = (): ErrorCode => {
      writeFileSync(secretPath, other)
      return 'ssh_auth_failed'
    }
    const changed = await run({ secretPath }, [refuseAndChange, REPLY], undefined, undefined, keys, null, own)
    expect(changed).toMatchObject({ outcome: { outcome: 'succeeded' }, connections: 2 })
    expect(new Set(changed.keyVersions).size).toBe(2)
    const again = await run({ secretPath }, [refuseAndChange, REPLY], undefined, undefined, keys, null, own)
    expect(again).toMatchObject({ outcome: { error: { code: 'ssh_auth_failed' } }, connections: 1 })
  })

  test('opens a key once for all jobs that use it', async () => {
    let opened = 0
    const source = keySource(timeless)
    const counted: KeySource = {
      ...source,
      open: (stored) => {
        opened++
        return source.open(stored)
      },
    }
    const keys = fileRing(directory, timeless, { source: counted })
    const both = await Promise.all([1, 2].map(() => run({}, [REPLY], undefined, undefined, keys)))
    expect(both.map(({ outcome }) => outcome.outcome)).toEqual(['succeeded', 'succeeded'])
    expect(opened).toBe(1)
  })

  test.each([
    [0, 0],
    [9_999_999_999, 1],
    [1, 2 ** 31],
  ])('a recorded pair %i %i, which a server made up, is left out of the failure', async (generation, epoch) => {
    const error = new JobError('superseded', 'seen', {}, { recorded: { generation, epoch } })
    const { outcome } = await run({}, [error])
    if (outcome.outcome !== 'failed') throw new Error('succeeded')
    expect(JobFailure.safeParse(outcome.error)).toMatchObject({ success: true })
    expect(outcome.error).toMatchObject({ code: 'superseded' })
    expect(outcome.error.recorded).toBeUndefined()
  })

  test('a recorded pair that fits is told', async () => {
    const recorded = { generation: 3, epoch: 9 }
    const { outcome } = await run({}, [new JobError('superseded', 'seen', {}, { recorded })])
    expect(outcome).toMatchObject({ error: { code: 'superseded', recorded } })
  })

  test('host keys that no protocol can carry are left out, and the others told', async () => {
    const odd = ['ssh-dss AAAAB3NzaC1kc3MAAACBAA', 'ssh-ed25519 \nx', '']
    const { outcome } = await run({}, ['host_key_changed'], undefined, [...odd, HOST_KEY])
    if (outcome.outcome !== 'failed') throw new Error('succeeded')
    expect(JobFailure.safeParse(outcome.error)).toMatchObject({ success: true })
    expect(outcome.error.hostKeys).toEqual([HOST_KEY])
  })

  test('nothing of the private key is in any failure', async () => {
    const { outcome } = await run({}, [
      () => {
        throw new Error(readFileSync(path.join(directory, 'ssh.json'), 'utf8'))
      },
    ])
    expect(outcome.outcome === 'failed' && JSON.stringify(outcome.error)).not.toMatch(/[A-Za-z0-9+/]{40}/)
    expect(outcome).toMatchObject({ error: { code: 'internal_error' } })
  })
})
