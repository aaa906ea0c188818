import { expect } from 'vitest'
import type { Deadlines } from '../../src/connector/config.ts'
import type { Pool } from '../../src/ssh/pool.ts'
import type { Route } from '../../src/ssh/route.ts'
import type { TestHost } from '../hosts/hosts.ts'
import { type Direction, type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import {
  codeOf,
  grantFor,
  heldTo,
  hopTo,
  leftOn,
  lockIsFree,
  makePool,
  routeTo,
  sockets,
  startWorkbench,
  type Workbench,
} from './workbench.ts'

export const SEED = 20_261_125

export type Line = { proxy: FaultProxy; pool: Pool; bench: Workbench; route: Route }

/** Lines to a host through a fault proxy each, with a connector's transport at the end. */
export const linesTo = (host: () => TestHost) => {
  let lines: Line[] = []
  let heldBefore = 0

  const open = async (deadlines: Partial<Deadlines> = {}): Promise<Line> => {
    const proxy = await startFaultProxy(host().port, SEED)
    const pool = makePool(deadlines)
    const bench = await startWorkbench(host(), { port: proxy.port, pool, deadlines })
    const line = { proxy, pool, bench, route: routeTo(hopTo(host(), { port: proxy.port })) }
    lines.push(line)
    return line
  }

  const close = async ({ proxy, pool }: Line): Promise<void> => {
    await pool.close()
    expect(pool.stats()).toMatchObject({ open: 0, connecting: 0, inUse: 0 })
    // Also those that the proxy froze: it is we who give up.
    await expect.poll(() => heldTo(proxy.port)).toBe(0)
    await proxy.close()
  }

  return {
    open,
    /** Before a test. */
    begin: () => {
      heldBefore = sockets()
    },
    /** After it: nothing is left, no descriptor here, no process there, and the lock on the server is free. */
    end: async (): Promise<void> => {
      await Promise.all(lines.map(close))
      lines = []
      await expect.poll(sockets).toBeLessThanOrEqual(heldBefore)
      await expect.poll(() => leftOn(host())).toEqual([])
      expect(await lockIsFree(host())).toBe(true)
    },
    /** Where no test runs yet: how a good run of a job looks on the wire, of a job on a server that has our timer. */
    record: async (): Promise<Record<Direction, Buffer>> => {
      for (const login of ['first', 'second']) {
        const { bench } = await open()
        expect(codeOf(await bench.ensure(grantFor(login), 'present'))).toBe('succeeded')
      }
      const good = { up: lines.at(-1)?.proxy.passed('up'), down: lines.at(-1)?.proxy.passed('down') }
      for (const { proxy, pool } of lines) {
        await pool.close()
        await proxy.close()
      }
      lines = []
      return { up: good.up ?? Buffer.of(), down: good.down ?? Buffer.of() }
    },
  }
}
