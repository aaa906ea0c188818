import { text } from 'node:stream/consumers'
import { newPool, routeTo, type Target } from './pool.ts'
import { CONNECTIONS } from './transport-cost.ts'

// Opens connections with one short command on each, and prints how much memory each of them takes. A first fifty, which
// stay open, warm up what is there once for all.

/** Jobs at once, as a connector has them by default. */
const SLOTS = 16

const settle = async (): Promise<number> => {
  for (let turn = 0; turn < 5; turn++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return process.memoryUsage.rss()
}

const main = async (): Promise<void> => {
  const host = JSON.parse(await text(process.stdin)) as Target
  const pool = newPool()
  const open = async (first: number, count: number): Promise<void> => {
    const users = Array.from({ length: count }, (_, n) => `user${first + n}`)
    const next = async (): Promise<void> => {
      for (let user = users.shift(); user !== undefined; user = users.shift()) {
        const { exitCode } = await pool.use(routeTo(host, user), {}, (link) =>
          link.exec('true', '', { timeoutMs: 60_000 }),
        )
        if (exitCode !== 0) throw new Error(`${user}: exit code ${exitCode}`)
      }
    }
    await Promise.all(Array.from({ length: SLOTS }, next))
  }
  await open(0, 50)
  const before = await settle()
  await open(50, CONNECTIONS)
  const after = await settle()
  if (pool.stats().open !== CONNECTIONS + 50) throw new Error(`${pool.stats().open} connections are open`)
  process.stdout.write(`${Math.max(1, Math.round((after - before) / CONNECTIONS))}\n`)
  await pool.close()
}

await main()
