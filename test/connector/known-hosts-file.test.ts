import { mkdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { hostKeySource } from '../../src/connector/known-hosts-file.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const A = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1'
const B = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1lIfMSsxYVEc/8WtHXGkaPhbaAqDNSEtCHTbhZk3n9'
const SERVER = { host: 'db-1', port: 22, hostKeys: [] }

const open = (content: string) => {
  const file = path.join(scratchDirectory(), 'known_hosts')
  writeFileSync(file, content)
  const lines: Record<string, unknown>[] = []
  const log = createLogger('info', { write: (text) => void lines.push(JSON.parse(text)) })
  let now = 5000
  const source = hostKeySource(file, { ...systemClock, monotonic: () => now }, log)
  return {
    file,
    lines,
    events: () => lines.map(({ event }) => event),
    known: () => source(SERVER, 'pinned').known,
    later: (ms: number) => {
      now += ms
    },
  }
}

const UNREADABLE = expect.objectContaining({ code: 'known_hosts_unreadable', retryable: true })

describe("the connector's known_hosts", () => {
  test('is read again when it has changed, once a second at most', () => {
    const { file, known, later } = open(`db-1 ${A}\n`)
    expect(known()).toEqual([A])
    writeFileSync(file, `db-1 ${B}\n`)
    later(999)
    expect(known()).toEqual([A])
    later(1)
    expect(known()).toEqual([B])
  })

  test.each([
    ['replaced by another of the same size and time', (file: string) => renameSync(`${file}.new`, file)],
    ['written over at the same size', (file: string) => writeFileSync(file, `db-1 ${B}\n`)],
  ])('%s: noticed', (_name, change) => {
    const { file, known, later } = open(`db-1 ${A}\n`)
    writeFileSync(`${file}.new`, `db-1 ${B}\n`)
    const at = new Date(1_700_000_000_000)
    for (const one of [file, `${file}.new`]) utimesSync(one, at, at)
    later(1000)
    expect(known()).toEqual([A])
    change(file)
    later(1000)
    expect(known()).toEqual([B])
  })

  test('while it is gone or cannot be read whole there are no connections; then it goes on by itself', () => {
    const { file, known, later, lines, events } = open(`db-1 ${A}\n`)
    rmSync(file)
    later(1000)
    expect(known).toThrow(UNREADABLE)
    expect(known).toThrow(/ENOENT/)
    later(1000)
    expect(known).toThrow(UNREADABLE)
    mkdirSync(file)
    later(1000)
    expect(known).toThrow(/not a regular file/)
    rmSync(file, { recursive: true })
    writeFileSync(file, `db-1 ${A}\n@revoked db-1 ${B.slice(0, -8)}\n`)
    later(1000)
    expect(known).toThrow(/line 2: the key is cut off/)
    writeFileSync(file, `db-1 ${A}\n`)
    later(1000)
    expect(known()).toEqual([A])
    expect(events()).toEqual(['known_hosts_unreadable', 'known_hosts_readable'])
    expect(lines[0]).toMatchObject({ level: 50, path: file })
  })

  test('authorities are warned of, at each reading, by line', () => {
    const { file, known, later, lines } = open(`db-1 ${A}\n@cert-authority * ${B}\n`)
    expect(known()).toEqual([A])
    later(5000)
    expect(known()).toEqual([A])
    expect(lines).toMatchObject([{ level: 40, event: 'known_hosts_authorities', path: file, lines: [2], count: 1 }])
  })

  test('without one, the integration and the policy decide', () => {
    const rules = hostKeySource(null, systemClock)({ ...SERVER, hostKeys: [A] }, 'pinned')
    expect(rules).toMatchObject({ known: [A], revoked: [], policy: 'pinned', decidedBy: null })
  })
})
