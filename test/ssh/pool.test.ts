import { describe, expect, test } from 'vitest'
import { type ErrorCode, JobError } from '../../src/host/errors.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { createBreakers } from '../../src/ssh/breaker.ts'
import { hostKeyRules } from '../../src/ssh/host-keys.ts'
import { createLoss } from '../../src/ssh/loss.ts'
import { createPool, type Pool, type PoolLimits, type UseOptions } from '../../src/ssh/pool.ts'
import { createRamp } from '../../src/ssh/ramp.ts'
import { createRefusedKeys, TRIES_AFTER_MS } from '../../src/ssh/refused-keys.ts'
import type { Hop, Route } from '../../src/ssh/route.ts'
import type { connectSsh, SshSession } from '../../src/ssh/session.ts'
import { createTakenKeys } from '../../src/ssh/taken-keys.ts'
import type { KeyOffer } from '../../src/ssh/trouble.ts'
import { fakeClock } from '../connector/fake-clock.ts'

// The bookkeeping of the pool, with connections that tests make and break at will. pool-on-hosts.test.ts has real ones.

const HOST_KEY = 'ssh-ed25519 AAAA'
const DEADLINES = { tcpMs: 1000, handshakeMs: 1000, loginMs: 1000, channelMs: 500, silenceMs: 1000, keepaliveMs: 1000 }

type Fake = { name: string; break: () => void; closed: () => boolean; running: () => number; release: () => void }

const setUp = (limits: PoolLimits = {}) => {
  const clock = fakeClock()
  const connections: Fake[] = []
  const refusals: (ErrorCode | JobError)[] = []
  /** What stands in the way of connecting until a test lets go. */
  let gate: Promise<void> = Promise.resolve()
  /** Sessions that a server allows at once. */
  let maxSessions = 10
  /** Keys that servers take, and how many they refuse before they hang up; and what they were offered, by connection. */
  let taken: readonly string[] | null = null
  let maxTries = 6
  const offered: string[][] = []

  const offer = (fingerprints: string[]): KeyOffer[] => {
    const takenAt = fingerprints.findIndex((one) => taken === null || taken.includes(one))
    const seen = fingerprints.slice(0, Math.min(maxTries, takenAt < 0 ? fingerprints.length : takenAt + 1))
    offered.push(seen)
    return seen.map((fingerprint, index) => {
      if (index === takenAt) return { fingerprint, answer: 'wanted' }
      return { fingerprint, answer: 'refused' }
    })
  }

  const connect: typeof connectSsh = async (server, keys, rules, options) => {
    options.onHostKey?.(HOST_KEY)
    await Promise.race([
      gate,
      new Promise((_resolve, reject) =>
        options.signal?.addEventListener('abort', () => reject(options.signal?.reason)),
      ),
    ])
    const refusal = refusals.shift()
    const fingerprints = keys.map(({ fingerprint }) => fingerprint)
    if (refusal === 'ssh_auth_failed')
      options.onOffers?.(fingerprints.map((one) => ({ fingerprint: one, answer: 'refused' })))
    if (refusal instanceof JobError) throw refusal
    if (refusal !== undefined) throw new JobError(refusal, refusal)
    if (rules.known.length > 0 && !rules.known.includes(HOST_KEY)) throw new JobError('host_key_changed', 'changed')
    if (options.openSocket !== undefined) await options.openSocket()
    const offers = offer(fingerprints)
    const last = offers.at(-1)
    if (last?.answer !== 'wanted') {
      options.onOffers?.(offers)
      throw new JobError('ssh_auth_failed', 'refused')
    }
    const loss = createLoss()
    let sessions = 0
    let release = Promise.withResolvers<void>()
    const lose = () => loss.lose(new JobError('connection_lost', 'lost'))
    connections.push({
      name: `${server.user}@${server.host}`,
      break: lose,
      closed: () => loss.isLost(),
      running: () => sessions,
      release: () => {
        release.resolve()
        release = Promise.withResolvers<void>()
      },
    })
    const session: SshSession = {
      user: server.user,
      host: server.host,
      port: server.port,
      serverSoftware: 'OpenSSH_9.2',
      hostKey: HOST_KEY,
      loginKey: last.fingerprint,
      address: options.openSocket === undefined ? (server.addresses[0]?.address ?? '') : null,
      exec: async (command) => {
        if (sessions >= maxSessions) throw new JobError('ssh_channel_refused', 'no more')
        sessions++
        if (command === 'wait') await release.promise
        if (command === 'break') {
          lose()
          throw new JobError('connection_lost', 'lost')
        }
        sessions--
        return { stdout: command, stderr: '', exitCode: 0, exitSignal: null }
      },
      forward: async () => ({}) as never,
      onClosed: (listener) => loss.onLost(listener),
      close: async () => lose(),
    }
    return session
  }
  const breakers = createBreakers({ clock, random: () => 0 })
  const pool = createPool(
    {
      clock,
      deadlines: DEADLINES,
      random: () => 0.5,
      ramp: createRamp(clock),
      breakers,
      refusedKeys: createRefusedKeys(clock),
      takenKeys: createTakenKeys(),
      connect,
    },
    limits,
  )
  return {
    clock,
    pool,
    connections,
    refusals,
    allow: (sessions: number) => {
      maxSessions = sessions
    },
    /** Which keys of a secret servers take from now on. */
    take: (fingerprints: readonly string[], tries = 6) => {
      taken = fingerprints
      maxTries = tries
    },
    offered,
    /** From now on connecting takes until the returned function is called. */
    hold: () => {
      const { promise, resolve } = Promise.withResolvers<void>()
      gate = promise
      return resolve
    },
  }
}

const hop = (
  host: string,
  more: Partial<Hop> & { known?: string[]; address?: string; version?: string; keys?: string[] } = {},
): Hop => ({
  server: { host, port: 22, user: 'apono', addresses: [{ address: more.address ?? '10.0.0.1', family: 4 }] },
  key: {
    keys: (more.keys ?? ['SHA256:x']).map((fingerprint) => ({ fingerprint }) as LoginKey),
    version: more.version ?? 'v1',
  },
  rules: hostKeyRules({ host, port: 22, hostKeys: more.known ?? [] }, 'trust_on_first_use', null),
})
const to = (host: string, more: Parameters<typeof hop>[1] = {}, ...jumps: Hop[]): Route => ({
  jumps,
  target: hop(host, more),
})
const run = (pool: Pool, route: Route, command = 'true', options: UseOptions = {}) =>
  pool.use(route, options, (link) => link.exec(command, '', { timeoutMs: 1000 }))
const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'fine',
    (error: { code?: string }) => error.code ?? String(error),
  )
/** Long enough for all that needs no clock. */
const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}

describe('one connection for each server', () => {
  test('is shared by those who come at once, and by those who come later', async () => {
    const { pool, connections, hold } = setUp()
    const open = hold()
    const crowd = Array.from({ length: 20 }, () => run(pool, to('a')))
    open()
    await Promise.all(crowd)
    await run(pool, to('a'))
    await run(pool, to('b'))
    expect(connections.map(({ name }) => name)).toEqual(['apono@a', 'apono@b'])
  })

  test('fails once for all who waited for it, and is tried anew by the next', async () => {
    const { pool, connections, refusals } = setUp()
    refusals.push('ssh_unreachable')
    expect(await Promise.all([codeOf(run(pool, to('a'))), codeOf(run(pool, to('a')))])).toEqual([
      'ssh_unreachable',
      'ssh_unreachable',
    ])
    expect(await codeOf(run(pool, to('a')))).toBe('fine')
    expect(connections).toHaveLength(1)
  })

  test('is made for the others when the first who wanted it goes away', async () => {
    const { pool, connections, hold } = setUp()
    const open = hold()
    const first = new AbortController()
    const gone = codeOf(run(pool, to('a'), 'true', { signal: first.signal }))
    const stays = codeOf(run(pool, to('a')))
    await settled()
    first.abort(new Error('called off'))
    expect(await gone).toBe('cancelled')
    open()
    expect(await stays).toBe('fine')
    expect(connections).toHaveLength(1)
  })

  test('is given up when nobody wants it any more', async () => {
    const { pool, hold, connections } = setUp()
    const open = hold()
    const only = new AbortController()
    const gone = codeOf(run(pool, to('a'), 'true', { signal: only.signal }))
    await settled()
    only.abort(new Error('called off'))
    expect(await gone).toBe('cancelled')
    await settled()
    expect(pool.stats()).toMatchObject({ open: 0, connecting: 0 })
    open()
    expect(connections).toHaveLength(0)
  })

  const pinnedTo = (line: string) => ({ known: [line] })
  test('that another’s rules refused says nothing to who has other rules, and all to who has the same', async () => {
    const { pool, connections, hold, clock } = setUp()
    const open = hold()
    const wrong = Array.from({ length: 5 }, () => codeOf(run(pool, to('a', pinnedTo('ssh-ed25519 BBBB')))))
    await settled()
    const right = Array.from({ length: 5 }, () => codeOf(run(pool, to('a', pinnedTo(HOST_KEY)))))
    await settled()
    expect(pool.stats().connecting).toBe(1)
    open()
    // sshd counts one that left without a login.
    await clock.advance(2000)
    expect(new Set(await Promise.all(wrong))).toEqual(new Set(['host_key_changed']))
    expect(new Set(await Promise.all(right))).toEqual(new Set(['fine']))
    expect(connections).toHaveLength(1)
  })

  test('whose jump host another’s rules refused: the same', async () => {
    const { pool, hold, clock } = setUp()
    const open = hold()
    const wrong = codeOf(run(pool, to('a', {}, hop('jump', pinnedTo('ssh-ed25519 BBBB')))))
    await settled()
    const right = codeOf(run(pool, to('a', {}, hop('jump', pinnedTo(HOST_KEY)))))
    await settled()
    open()
    await clock.advance(2000)
    expect([await wrong, await right]).toEqual(['host_key_changed', 'fine'])
  })

  test.each(['its only user went away', 'the pool was closed'])(
    'is ended when it came about in the moment in which %s',
    async (what) => {
      const { pool, hold, connections, clock } = setUp()
      const open = hold()
      const only = new AbortController()
      const gone = codeOf(run(pool, to('a'), 'true', { signal: only.signal }))
      await settled()
      open()
      // The connection is made by now, and nobody has been told yet.
      while (connections.length === 0) await Promise.resolve()
      const closed = what === 'the pool was closed' ? pool.close() : only.abort(new Error('called off'))
      expect(await gone).toMatch(/cancelled|fine/)
      await settled()
      await clock.advance(1_000_000)
      expect(connections.map((one) => one.closed())).toEqual([true])
      expect(pool.stats()).toMatchObject({ open: 0, connecting: 0, inUse: 0 })
      await closed
    },
  )

  test('that breaks at every command opens the circuit, although each login works', async () => {
    const { pool, connections } = setUp()
    for (let round = 0; round < 3; round++) {
      expect(await codeOf(run(pool, to('a'), 'break'))).toBe('connection_lost')
    }
    expect(await codeOf(run(pool, to('a')))).toBe('circuit_open')
    expect(connections).toHaveLength(3)
  })

  test('that broke is made anew', async () => {
    const { pool, connections } = setUp()
    await run(pool, to('a'))
    connections[0]?.break()
    expect(await codeOf(run(pool, to('a')))).toBe('fine')
    expect(connections).toHaveLength(2)
  })
})

describe('a connection is ended and not used again', () => {
  const changes: [string, Parameters<typeof hop>[1]][] = [
    ['with another version of the key', { version: 'v2' }],
    ['when the server’s key is not the pinned one', { known: ['ssh-ed25519 BBBB'] }],
    ['when the name stands for another address by now', { address: '10.0.0.2' }],
  ]
  test.each(changes)('%s', async (_name, change) => {
    const { pool, connections } = setUp()
    await run(pool, to('a'))
    const code = await codeOf(run(pool, to('a', change)))
    expect(connections[0]?.closed()).toBe(true)
    expect(code).toBe(change?.known === undefined ? 'fine' : 'host_key_changed')
  })

  test('but not before whoever uses it is done, and there are never two', async () => {
    const { pool, connections } = setUp()
    const busy = run(pool, to('a'), 'wait')
    await settled()
    const other = run(pool, to('a', { version: 'v2' }))
    await settled()
    expect(connections.map((one) => one.closed())).toEqual([false])
    connections[0]?.release()
    await Promise.all([busy, other])
    expect(connections.map((one) => one.closed())).toEqual([true, false])
  })

  test('not even when it is just being made for somebody', async () => {
    const { pool, connections, hold } = setUp()
    const open = hold()
    const first = codeOf(run(pool, to('a')))
    await settled()
    const second = codeOf(run(pool, to('a', { version: 'v2' })))
    await settled()
    open()
    expect(await Promise.all([first, second])).toEqual(['fine', 'fine'])
    expect(connections.map((one) => one.closed())).toEqual([true, false])
  })

  test('nor does a third who comes meanwhile get another', async () => {
    const { pool, connections } = setUp()
    const busy = run(pool, to('a'), 'wait')
    await settled()
    const others = [run(pool, to('a', { version: 'v2' })), run(pool, to('a', { version: 'v2' }))]
    await settled()
    const third = run(pool, to('a', { version: 'v2' }))
    await settled()
    expect(connections).toHaveLength(1)
    connections[0]?.release()
    await Promise.all([busy, third, ...others])
    expect(connections).toHaveLength(2)
  })

  test('a key that was pinned after it was seen for the first time ends nothing', async () => {
    const { pool, connections } = setUp()
    await run(pool, to('a'))
    await run(pool, to('a', { known: [HOST_KEY] }))
    expect(connections).toHaveLength(1)
  })

  test('after it was idle for long, counted from its last use', async () => {
    const { pool, clock, connections } = setUp({ idleMs: 5000 })
    await run(pool, to('a'))
    await clock.advance(4000)
    await run(pool, to('a'))
    await clock.advance(4000)
    expect(connections[0]?.closed()).toBe(false)
    await clock.advance(1000)
    expect(connections[0]?.closed()).toBe(true)
    expect(pool.stats().open).toBe(0)
  })

  test('when there are too many: the one that was not used for longest, and never one that is in use', async () => {
    const { pool, connections } = setUp({ most: 2 })
    await run(pool, to('a'))
    await run(pool, to('b'))
    await run(pool, to('a'))
    await run(pool, to('c'))
    expect(connections.map((one) => [one.name, one.closed()])).toEqual([
      ['apono@a', false],
      ['apono@b', true],
      ['apono@c', false],
    ])
    const busy = [run(pool, to('a'), 'wait'), run(pool, to('c'), 'wait')]
    await settled()
    expect(await codeOf(run(pool, to('d')))).toBe('fine')
    expect(connections.filter((one) => one.closed()).map((one) => one.name)).toEqual(['apono@b'])
    for (const one of connections) one.release()
    await Promise.all(busy)
  })

  test('all of them when the pool closes, and nobody gets one after that', async () => {
    const { pool, connections } = setUp()
    await Promise.all(['a', 'b'].map((host) => run(pool, to(host, {}, hop('jump')))))
    await pool.close()
    expect(connections.map((one) => one.closed())).toEqual([true, true, true])
    expect(await codeOf(run(pool, to('a')))).toBe('cancelled')
  })
})

describe('commands on one connection', () => {
  test('run eight at once, and the others in turn', async () => {
    const { pool, connections } = setUp()
    const all = Array.from({ length: 12 }, () => run(pool, to('a'), 'wait'))
    await settled()
    expect(connections[0]?.running()).toBe(8)
    connections[0]?.release()
    await settled()
    expect(connections[0]?.running()).toBe(4)
    connections[0]?.release()
    await Promise.all(all)
  })

  test('run as many at once as the server allows, and none fails for the others', async () => {
    const { pool, connections, allow, clock } = setUp()
    allow(2)
    const all = Promise.all(Array.from({ length: 6 }, () => run(pool, to('a'), 'wait')))
    for (let round = 0; round < 12; round++) {
      await clock.advance(60)
      expect(connections[0]?.running()).toBeLessThanOrEqual(2)
      connections[0]?.release()
    }
    expect(await all).toHaveLength(6)
    expect(connections).toHaveLength(1)
  })

  test('that change the server run one at a time, whoever they log in as, in the order in which they came', async () => {
    const { pool, connections } = setUp()
    const order: string[] = []
    const root = to('a')
    const asRoot = { ...root, target: { ...root.target, server: { ...root.target.server, user: 'root' } } }
    const first = run(pool, to('a'), 'wait', { alone: true }).then(() => order.push('first'))
    await settled()
    const second = run(pool, asRoot, 'true', { alone: true }).then(() => order.push('second'))
    const third = run(pool, to('a'), 'true', { alone: true }).then(() => order.push('third'))
    const looks = run(pool, to('a')).then(() => order.push('looks'))
    await looks
    connections[0]?.release()
    await Promise.all([first, second, third])
    expect(order).toEqual(['looks', 'first', 'second', 'third'])
  })
})

describe('jump hosts', () => {
  test('are connections of their own, shared by what is behind them, and in use for as long as that is', async () => {
    const { pool, connections, clock } = setUp({ idleMs: 1000 })
    await run(pool, to('a', {}, hop('jump')))
    await clock.advance(500)
    await run(pool, to('b', {}, hop('jump')))
    expect(connections.map(({ name }) => name)).toEqual(['apono@jump', 'apono@a', 'apono@b'])
    await clock.advance(600)
    expect(connections.map((one) => one.closed())).toEqual([false, true, false])
    await clock.advance(500)
    expect(connections.map((one) => one.closed())).toEqual([false, true, true])
    await clock.advance(1000)
    expect(connections.map((one) => one.closed())).toEqual([true, true, true])
  })

  test.each<[string, Parameters<typeof hop>[1], string]>([
    ['with another version of the key', { version: 'v2' }, 'fine'],
    ['when its key is not the pinned one', { known: ['ssh-ed25519 BBBB'] }, 'host_key_changed'],
    ['at another address', { address: '10.0.0.2' }, 'fine'],
  ])('%s one is ended, and what is behind it', async (_name, change, code) => {
    const { pool, connections } = setUp()
    await run(pool, to('a', {}, hop('jump')))
    expect(await codeOf(run(pool, to('a', {}, hop('jump', change))))).toBe(code)
    expect(connections.slice(0, 2).map((one) => one.closed())).toEqual([true, true])
  })

  test('whose key has changed are not held by what stands idle behind them, nor taken from what is in use', async () => {
    const { pool, connections } = setUp()
    await run(pool, to('idle', {}, hop('jump')))
    const busy = run(pool, to('busy', {}, hop('jump')), 'wait')
    await settled()
    const other = run(pool, to('other', {}, hop('jump', { version: 'v2' })))
    await settled()
    const closed = () => Object.fromEntries(connections.map((one) => [one.name, one.closed()]))
    expect(closed()).toEqual({ 'apono@jump': false, 'apono@idle': true, 'apono@busy': false })
    for (const one of connections) one.release()
    await Promise.all([busy, other])
    expect(connections.map((one) => [one.name, one.closed()])).toEqual([
      ['apono@jump', true],
      ['apono@idle', true],
      ['apono@busy', true],
      ['apono@jump', false],
      ['apono@other', false],
    ])
  })

  test('show their keys to who comes to a connection that is there', async () => {
    const { pool } = setUp()
    for (let round = 0; round < 2; round++) {
      const seen: string[] = []
      await run(pool, to('a', {}, hop('jump')), 'true', { onHostKey: (at) => void seen.push(at.server.host) })
      expect([...new Set(seen)]).toEqual(['jump', 'a'])
    }
  })

  test('that can’t be reached fail what is behind them, say so, and open no circuit of theirs', async () => {
    const { pool, refusals } = setUp()
    for (let round = 0; round < 4; round++) {
      refusals.push('ssh_unreachable')
      const error = await run(pool, to('a', {}, hop('jump'))).catch((reason: JobError) => reason)
      expect(error).toMatchObject({ code: round < 3 ? 'ssh_unreachable' : 'circuit_open' })
      expect((error as JobError).message).toContain('jump host jump:22: ')
    }
    refusals.length = 0
    expect(await codeOf(run(pool, to('a')))).toBe('fine')
    expect(await codeOf(run(pool, to('a', {}, hop('other jump'))))).toBe('fine')
  })
})

describe('a key that a server refused', () => {
  test('is not offered again before the secret changes, then once', async () => {
    const { pool, refusals, connections, clock } = setUp()
    /** sshd counts a refusal for five seconds. */
    const later = async (work: Promise<string>) => {
      await clock.advance(10_000)
      return await work
    }
    refusals.push('ssh_auth_failed')
    expect(await codeOf(run(pool, to('a')))).toBe('ssh_auth_failed')
    for (let round = 0; round < 5; round++) expect(await codeOf(run(pool, to('a')))).toBe('ssh_auth_failed')
    refusals.push('ssh_auth_failed')
    expect(await later(codeOf(run(pool, to('a', { version: 'v2' }))))).toBe('ssh_auth_failed')
    expect(refusals).toEqual([])
    expect(await codeOf(run(pool, to('a', { version: 'v2' })))).toBe('ssh_auth_failed')
    expect(connections).toHaveLength(0)
    expect(await later(codeOf(run(pool, to('b'))))).toBe('fine')
    expect(await later(codeOf(run(pool, to('a', { version: 'v3' }))))).toBe('fine')
  })
})

describe('a key that a server refused, and perhaps takes by now,', () => {
  test('is offered once more when a person asks, and by an end of access every ten minutes', async () => {
    const { pool, refusals, clock } = setUp()
    const offered = async (options: UseOptions): Promise<boolean> => {
      refusals.push('ssh_auth_failed')
      const code = codeOf(run(pool, to('a'), 'true', options))
      await clock.advance(10_000)
      expect(await code).toBe('ssh_auth_failed')
      return refusals.splice(0).length === 0
    }
    expect(await offered({})).toBe(true)
    expect(await offered({})).toBe(false)
    expect(await offered({ urgent: true })).toBe(false)
    expect(await offered({ offerAgain: true })).toBe(true)
    await clock.advance(TRIES_AFTER_MS)
    expect(await offered({})).toBe(false)
    expect(await offered({ urgent: true })).toBe(true)
    expect(await offered({ urgent: true })).toBe(false)
    const code = codeOf(run(pool, to('a'), 'true', { offerAgain: true }))
    await clock.advance(10_000)
    expect(await code).toBe('fine')
    expect(await codeOf(run(pool, to('a')))).toBe('fine')
  })
})

describe('a server that turns away', () => {
  test('in a crowd is asked again a little later', async () => {
    const { pool, refusals, clock } = setUp()
    refusals.push('ssh_turned_away', 'ssh_turned_away')
    const code = codeOf(run(pool, to('a')))
    await clock.advance(1000)
    expect(await code).toBe('fine')
  })

  test('as a punishment is not', async () => {
    const { pool, refusals } = setUp()
    refusals.push('ssh_penalised')
    expect(await codeOf(run(pool, to('a')))).toBe('ssh_penalised')
  })
})

describe('a secret with two keys', () => {
  const both = { keys: ['current', 'next'] }
  const lookAt = async (pool: Pool, route: Route, options: UseOptions = {}): Promise<string[]> => {
    const logins: string[] = []
    const onLogin = (at: Hop, fingerprint: string) => void logins.push(`${at.server.host} ${fingerprint}`)
    await run(pool, route, 'true', { nextFirst: true, onLogin, ...options })
    return [...new Set(logins)]
  }

  test('has the current key offered first to whom nothing is known of, then what was taken', async () => {
    const { pool, take, offered, connections } = setUp()
    take(['next'])
    await run(pool, to('a', both))
    connections[0]?.break()
    await run(pool, to('a', both))
    expect(offered).toEqual([['current', 'next'], ['next']])
  })

  test('whose next key was not taken is asked again after half an hour, or when a person asks', async () => {
    const { pool, take, offered, connections, clock } = setUp({ idleMs: 10_000_000 })
    take(['current'])
    const seen = ['next', 'current']
    for (let round = 0; round < 3; round++) expect(await lookAt(pool, to('a', both))).toEqual(['a current'])
    expect(offered).toEqual([seen])
    await clock.advance(1_800_001)
    await lookAt(pool, to('a', both))
    await clock.advance(1)
    await lookAt(pool, to('a', both), { offerAgain: true })
    expect(offered).toEqual([seen, seen, seen])
    expect(connections.map((one) => one.closed())).toEqual([true, true, false])
    take(['current', 'next'])
    await clock.advance(1)
    expect(await lookAt(pool, to('a', both), { offerAgain: true })).toEqual(['a next'])
    await clock.advance(2_000_000)
    expect(await lookAt(pool, to('a', both), { offerAgain: true })).toEqual(['a next'])
    expect(offered).toHaveLength(4)
  })

  test('is looked into once where many look at once, by the connection that a job is just making as well', async () => {
    const { pool, take, offered, hold } = setUp()
    take(['current'])
    const open = hold()
    const job = run(pool, to('a', both))
    await settled()
    const looks = Array.from({ length: 5 }, () => lookAt(pool, to('a', both)))
    await settled()
    open()
    expect(await Promise.all(looks)).toEqual(looks.map(() => ['a current']))
    await job
    expect(offered).toEqual([['current'], ['next', 'current']])
  })

  test('of a jump host is not looked into for each server behind it, and ended for none of a round that a person asks for', async () => {
    const { pool, take, offered, connections, clock } = setUp({ idleMs: 10_000_000 })
    take(['current'])
    await run(pool, to('a', both, hop('jump', both)))
    for (const host of ['a', 'b', 'c']) {
      expect(await lookAt(pool, to(host, both, hop('jump', both)), { offerAgain: true })).toEqual([
        'jump current',
        `${host} current`,
      ])
      await clock.advance(10_000)
    }
    expect(connections.filter(({ name }) => name === 'apono@jump')).toHaveLength(2)
    expect(offered).toHaveLength(6)
    await clock.advance(60_000)
    await lookAt(pool, to('a', both, hop('jump', both)), { offerAgain: true })
    expect(connections.filter(({ name }) => name === 'apono@jump')).toHaveLength(3)
  })

  test('is not offered without end to a server that hangs up, however often we are called off between the two', async () => {
    const { pool, take, offered, clock } = setUp()
    take([], 1)
    for (let round = 0; round < 5; round++) {
      const called = new AbortController()
      const code = codeOf(run(pool, to('a', both), 'true', { signal: called.signal }))
      await settled()
      called.abort(new Error('called off'))
      await code
      await clock.advance(10_000)
    }
    expect(offered).toEqual([['current'], ['next']])
    expect(await codeOf(run(pool, to('a', both)))).toBe('ssh_auth_failed')
    // The end of access tries by itself, after a while.
    await clock.advance(TRIES_AFTER_MS)
    const end = codeOf(run(pool, to('a', both), 'true', { urgent: true }))
    await clock.advance(20_000)
    expect(await end).toBe('ssh_auth_failed')
    expect(offered).toHaveLength(4)
  })

  test('that is replaced by one with its next key alone: that is offered', async () => {
    const { pool, take, offered } = setUp()
    take(['next'])
    await lookAt(pool, to('a', both))
    expect(await lookAt(pool, to('a', { keys: ['next'], version: 'v2' }))).toEqual(['a next'])
    expect(offered).toEqual([['next'], ['next']])
  })
})
