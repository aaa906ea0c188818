import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type Cut, type Direction, type FaultProxy, packetEnds, seeded } from './fault-proxy.ts'
import { type Line, linesTo, SEED } from './lines.ts'
import { codeOf, failure, grantFor, heldTo, hopTo, leftOn, routeTo, run, standing } from './workbench.ts'

// A job on a real server, with the real program, on a connection that is cut off wherever one can be.

const SETUP = `useradd -m -p '*' -s /bin/bash behind
  cp -r ~apono/.ssh /home/behind/; chown -R behind: /home/behind`

let host: TestHost
let good: Record<Direction, Buffer>
const lines = linesTo(() => host)
const { open } = lines

beforeAll(async () => {
  host = await startHost({ setup: SETUP })
  good = await lines.record()
}, 120_000)
afterAll(() => host?.stop())
beforeEach(lines.begin)
afterEach(lines.end)

const BEFORE = ['ssh_turned_away', 'ssh_unreachable']
const LOGIN = ['ssh_account_denied', 'ssh_unreachable']
const COMMAND = ['connection_lost']

/** By the place of a packet in its direction: identification, key exchange and service; the login; what comes after. */
const codesOf = (direction: Direction, packet: number): readonly string[] => {
  const [login, command] = direction === 'up' ? [5, 7] : [6, 8]
  if (packet < login) return BEFORE
  return packet < command ? LOGIN : COMMAND
}

type Point = { direction: Direction; after: number; codes: readonly string[] }

/** Every packet of the good run at its end, every third one in its middle, and places that nobody chose. */
const points = (direction: Direction): Point[] => {
  const bytes = good[direction]
  const ends = packetEnds(bytes)
  const at = (after: number): Point => {
    const packet = ends.filter((end) => end < after).length
    const next = ends[packet] === after ? packet + 1 : packet
    return { direction, after, codes: [...codesOf(direction, packet), ...codesOf(direction, next)] }
  }
  const random = seeded(SEED)
  const middles = ends.map((end, n) => Math.floor((end + (ends[n - 1] ?? 0)) / 2)).filter((_, n) => n % 3 === 0)
  const anywhere = [1, 2, 3].map(() => 1 + Math.floor(random() * (bytes.length - 1)))
  return [0, ...ends, ...middles, ...anywhere].map(at)
}

/** One job whose first two connections are cut at the same place; then again, as a control plane would, until it is done. */
const cutTwice = async (
  { proxy, pool, bench }: Line,
  cut: Cut,
  codes: readonly string[],
  job: [string, 'present' | 'absent'],
) => {
  // The connection that was good enough for the last one.
  proxy.stop(cut.how)
  await expect.poll(() => pool.stats().open).toBe(0)
  proxy.plan({ cut }, { cut })
  const [login, state] = job
  const from = performance.now()
  const first = await bench.ensure(grantFor(login), state)
  const where = `${cut.direction} ${cut.after} ${cut.how}: ${first.outcome === 'failed' ? first.error.message : ''}`
  expect(performance.now() - from, where).toBeLessThan(10_000)
  expect([...codes, 'succeeded'], where).toContain(codeOf(first))
  if (first.outcome === 'failed') expect(first.error.retryable, where).toBe(true)
  let last = first
  for (let tries = 0; last.outcome === 'failed' && tries < 3; tries++) last = await bench.ensure(grantFor(login), state)
  expect(codeOf(last), where).toBe('succeeded')
  return codeOf(first)
}

describe('a connection that is cut', () => {
  test.each(['up', 'down'] as const)(
    'after any packet or in it, %s, and again: a named outcome that may be tried again, then what was asked for',
    async (direction) => {
      const setting = await open()
      const seen: string[] = []
      const expected = new Set<string>()
      const all = points(direction)
      for (const [n, { after, codes }] of all.entries()) {
        const ends = n % 3 === 2
        const login = `${direction}${ends ? n - 1 : n}`
        const cut: Cut = { direction, after, how: n % 2 === 0 ? 'reset' : 'end' }
        seen.push(await cutTwice(setting, cut, codes, [login, ends ? 'absent' : 'present']))
        if (ends) expected.delete(login)
        else expected.add(login)
      }
      expect(
        new Set(
          await standing(
            host,
            all.map((_, n) => `${direction}${n}`),
          ),
        ),
      ).toEqual(expected)
      // Cut off in every part of the story, and not only where the pool tries again by itself.
      for (const code of ['ssh_unreachable', 'connection_lost']) expect(seen).toContain(code)
    },
    90_000,
  )

  test('while the program is sent: it did nothing or all of it, and no process of ours waits there', async () => {
    const ends = packetEnds(good.up)
    const [eof = 0, data = 0, begun = 0] = ends.slice(-3).reverse()
    const places = [begun - 32_000, begun - 5, data - 2000, data - 1, data, eof]
    const logins = await Promise.all(
      places.map(async (after, n) => {
        const { proxy, bench } = await open()
        const cut: Cut = { direction: 'up', after, how: n % 2 === 0 ? 'end' : 'reset' }
        proxy.plan({ cut }, { cut })
        const login = `sent${n}`
        expect(['connection_lost', 'succeeded']).toContain(codeOf(await bench.ensure(grantFor(login), 'present')))
        return login
      }),
    )
    await expect.poll(() => leftOn(host)).toEqual([])
    const whole = await standing(host, logins)
    const { stdout } = await host.exec(`getent passwd ${logins.join(' ')} | cut -d : -f 1; true`)
    expect(stdout.split('\n').filter((line) => line !== '')).toEqual(whole)
    // What lacks a byte never begins.
    expect(whole).not.toContain('sent0')
    expect(whole).not.toContain('sent1')
  })

  test('while nobody uses it: the next job has a new one', async () => {
    const { proxy, pool, bench } = await open()
    for (const how of ['end', 'reset'] as const) {
      expect(codeOf(await bench.ensure(grantFor('idle'), 'present'))).toBe('succeeded')
      proxy.stop(how)
      await expect.poll(() => pool.stats().open).toBe(0)
    }
    expect(codeOf(await bench.ensure(grantFor('idle'), 'absent'))).toBe('succeeded')
  })

  test('with many commands on it counts as one failure of the server', async () => {
    const { proxy, pool, route } = await open()
    const all = Array.from({ length: 6 }, () => failure(run(pool, route, 'touch /tmp/many; sleep 20')))
    await expect.poll(async () => (await host.exec('test -e /tmp/many')).code).toBe(0)
    proxy.stop('reset')
    expect((await Promise.all(all)).map(({ code }) => code)).toEqual(all.map(() => 'connection_lost'))
    expect((await run(pool, route, 'echo again')).stdout).toBe('again\n')
  })

  test('because one command on it was called off is no failure of the server', async () => {
    const { pool, route } = await open()
    const off = new AbortController()
    const others = Array.from({ length: 5 }, () => failure(run(pool, route, 'sleep 20')))
    const one = failure(run(pool, route, 'touch /tmp/off; sleep 20', { signal: off.signal }))
    await expect.poll(async () => (await host.exec('test -e /tmp/off')).code).toBe(0)
    off.abort()
    expect((await one).code).toBe('cancelled')
    expect((await Promise.all(others)).map(({ code }) => code)).toEqual(others.map(() => 'connection_lost'))
    expect((await run(pool, route, 'echo again')).stdout).toBe('again\n')
  })

  test('by an error, and by us alone: the socket does not wait for the peer', async () => {
    const { proxy, pool, route } = await open()
    await run(pool, route, 'true')
    // What no key ever made, from somebody who answers nothing, not even our end.
    proxy.stop('freeze')
    proxy.inject(Buffer.alloc(64, 0xff))
    await expect.poll(() => pool.stats().open).toBe(0)
    await expect.poll(() => heldTo(proxy.port)).toBe(0)
  })
})

describe('behind a jump host', () => {
  /** The host by way of itself. */
  const behind = (proxy: FaultProxy) => {
    const inner = hopTo(host, { user: 'behind', port: 22 })
    return routeTo(hopTo(host, { port: proxy.port }), { ...inner, server: { ...inner.server, addresses: [] } })
  }
  /** From the jump host to the server behind it. */
  const ways = async () => {
    const { stdout } = await host.exec('awk \'$2 ~ /^0100007F:0016$/ && $4 == "01"\' /proc/net/tcp')
    return stdout.split('\n').filter((line) => line !== '').length
  }

  test('a server that goes is noticed at once, although the jump host stays', async () => {
    const { proxy, pool } = await open()
    const lost = failure(run(pool, behind(proxy), 'touch /tmp/behind; sleep 20'))
    await expect.poll(async () => (await host.exec('test -e /tmp/behind')).code).toBe(0)
    const from = performance.now()
    await host.exec('pkill -KILL -u behind sshd')
    expect((await lost).code).toBe('connection_lost')
    expect(performance.now() - from).toBeLessThan(5000)
    expect((await run(pool, behind(proxy), 'id -un')).stdout).toBe('behind\n')
    expect(proxy.count()).toBe(1)
  })

  test('a way that opens when nobody waits any more is closed again', async () => {
    const { proxy, pool } = await open({ tcpMs: 300 })
    await run(pool, routeTo(hopTo(host, { port: proxy.port })), 'true')
    proxy.alter({ delayMs: 1500 })
    expect((await failure(run(pool, behind(proxy), 'true'))).code).toBe('jump_failed')
    await expect.poll(ways).toBe(1)
    await expect.poll(ways).toBe(0)
    expect(pool.stats().open).toBe(1)
  })
})
