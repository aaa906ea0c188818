import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Deadlines } from '../../src/connector/config.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type Cut, type Direction, packetEnds } from './fault-proxy.ts'
import { linesTo } from './lines.ts'
import { codeOf, failure, grantFor, leftOn, lockIsFree, run, standing } from './workbench.ts'

// Peers and networks that go on too slowly, or not at all, and tell nobody.

// Logins that hang do not count against each other.
const SETUP = `echo 'MaxStartups 100:30:200' >/etc/ssh/sshd_config.d/50-test.conf
  kill -HUP "$(pgrep -o -x sshd)"; sleep 0.3`

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

/** Short ones, for what has to run into them. */
const SHORT: Partial<Deadlines> = {
  handshakeMs: 2500,
  loginMs: 2500,
  channelMs: 2500,
  keepaliveMs: 500,
  silenceMs: 8000,
}

describe('a peer that says nothing any more', () => {
  test('is given up at every stage, by that stage’s deadline', async () => {
    const [ident = 0, init = 0, reply = 0, keys = 0, extensions = 0, service = 0, ok = 0, success = 0] = packetEnds(
      good.down,
    )
    const upwards = packetEnds(good.up)
    const stages: [Direction, number, RegExp][] = [
      ['down', 0, /no SSH handshake/],
      ['down', ident - 20, /no SSH handshake/],
      ['down', ident, /no SSH handshake/],
      ['down', init - 1, /no SSH handshake/],
      ['down', reply, /no SSH handshake/],
      ['up', 400, /no SSH handshake/],
      ['down', keys + 1, /no SSH login/],
      ['down', extensions, /no SSH login/],
      ['down', service, /no SSH login/],
      ['down', ok, /no SSH login/],
      ['up', (upwards[5] ?? 0) - 1, /no SSH login/],
      ['down', success, /opening a channel|ended before/],
      ['up', (upwards[7] ?? 0) - 1, /opening a channel|ended before/],
      ['up', (upwards[9] ?? 0) + 5000, /ended before/],
    ]
    await Promise.all(
      stages.map(async ([direction, after, message]) => {
        const { proxy, pool, route } = await open(SHORT)
        proxy.plan({ cut: { direction, after, how: 'freeze' } })
        const from = performance.now()
        const error = await failure(run(pool, route, 'cat', { stdin: 'x'.repeat(40_000) }))
        const where = `${direction} ${after}: ${error.code} ${error.message}`
        expect(performance.now() - from, where).toBeLessThan(9000)
        expect(['ssh_timeout', 'connection_lost'], where).toContain(error.code)
        expect(error.message, where).toMatch(message)
      }),
    )
  })

  test('in the middle of a job is noticed after 10 s, and the job is done on another connection', async () => {
    const sent = (packetEnds(good.up).at(-3) ?? 0) - 10_000
    const output = (packetEnds(good.down).at(-4) ?? 0) - 200
    const cuts: Cut[] = [
      { direction: 'up', after: sent, how: 'freeze' },
      { direction: 'down', after: output, how: 'freeze' },
    ]
    const frozen = await Promise.all(
      cuts.map(async (cut, n) => {
        const setting = await open()
        setting.proxy.plan({ cut })
        const from = performance.now()
        const outcome = await setting.bench.ensure(grantFor(`frozen${n}`), 'present')
        const seconds = (performance.now() - from) / 1000
        expect(codeOf(outcome)).toBe('succeeded')
        expect(seconds).toBeGreaterThan(7)
        expect(seconds).toBeLessThan(14)
        expect(await setting.bench.logsIn(grantFor(`frozen${n}`), outcome)).toBe(true)
        return setting
      }),
    )
    // Its sshd has not learnt that we went. The program that has all of its input is over; the other one waits for the
    // rest in its shell, where it has no lock and has changed nothing.
    for (const { proxy } of frozen) expect(proxy.servers()).toBe(2)
    expect(await lockIsFree(host)).toBe(true)
    const shells = (await leftOn(host)).filter((line) => line === '/bin/sh -s')
    expect(shells.length).toBe(1)
  })
})

describe('a slow network', () => {
  test('of 200 ms each way, with stalls: access is given and ended', async () => {
    const { proxy, bench } = await open()
    proxy.plan({ delayMs: 200, stalls: { share: 0.05, ms: [300, 1500] } })
    const outcome = await bench.ensure(grantFor('far'), 'present')
    expect(await bench.logsIn(grantFor('far'), outcome)).toBe(true)
    expect(codeOf(await bench.ensure(grantFor('far'), 'absent'))).toBe('succeeded')
    expect(await standing(host, ['far'])).toEqual([])
    expect(proxy.count()).toBe(1)
  })

  test('that brings every byte by itself, or 32 kB/s up: the same', async () => {
    const slow = [{ portion: 1 }, { portion: 512, pace: { direction: 'up', ms: 15 } }] as const
    await Promise.all(
      slow.map(async (fault, n) => {
        const { proxy, bench } = await open()
        proxy.plan(fault)
        const outcome = await bench.ensure(grantFor(`slow${n}`), 'present')
        expect(await bench.logsIn(grantFor(`slow${n}`), outcome)).toBe(true)
        expect(proxy.count()).toBe(1)
      }),
    )
  })

  test('a server that drips is given up when the handshake’s time is over, however alive it is', async () => {
    const { proxy, pool, route } = await open({ handshakeMs: 1000 })
    proxy.plan({ portion: 1, pace: { direction: 'down', ms: 10 } })
    const from = performance.now()
    expect(await failure(run(pool, route, 'true'))).toMatchObject({ code: 'ssh_timeout', retryable: true })
    expect(performance.now() - from).toBeLessThan(5000)
    expect(proxy.passed('down').length).toBeGreaterThan(10)
  })
})
