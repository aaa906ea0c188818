import { chmodSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type JournalOptions, openJournal } from '../../src/connector/journal.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import type { Report } from '../../src/protocol/calls.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const report = (jobId: string, message = ''): Report => ({
  jobId,
  epoch: 1,
  at: '2026-11-22T15:00:00.000Z',
  outcome: 'failed',
  error: { code: 'cancelled', message, hint: '', retryable: true },
})

const setUp = (stateDirectory = scratchDirectory()) => {
  const lines: Record<string, unknown>[] = []
  const log = createLogger('info', { write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) })
  const open = (more: Partial<JournalOptions> = {}) => {
    const journal = openJournal({ clock: systemClock, log, stateDirectory, url: 'https://one', ...more })
    onTestFinished(() => {
      try {
        journal.close()
      } catch {
        // The test did.
      }
    })
    return journal
  }
  const file = path.join(stateDirectory, 'connector-journal.db')
  return { open, file, stateDirectory, events: () => lines.map(({ event }) => event), lines }
}

const jobsOf = (journal: { reports(): readonly Report[] }): string[] =>
  journal.reports().map((one) => ('jobId' in one ? one.jobId : one.grantId))

describe('the journal', () => {
  test('gives the next process what was not answered, in its order, and nothing that was', () => {
    const { open, events } = setUp()
    const first = open()
    for (const job of ['a', 'b', 'c']) first.add(`job ${job}`, report(job))
    first.add('job a', report('a', 'newer'))
    first.remove('job b')
    // As kill -9 would leave it: not closed.
    const second = open()
    expect(jobsOf(second)).toEqual(['a', 'c'])
    expect(second.reports()[0]).toEqual(report('a', 'newer'))
    expect(events()).toEqual([])
  })

  test('shows outcomes to the control plane that they are for, and to no other', () => {
    const { open } = setUp()
    open().add('job a', report('a'))
    expect(jobsOf(open({ url: 'https://other' }))).toEqual([])
    expect(jobsOf(open())).toEqual(['a'])
  })

  test('is made with its folder, and is for its own user only', () => {
    const { open, file, stateDirectory } = setUp(path.join(scratchDirectory(), 'a', 'b'))
    process.umask(0o077)
    onTestFinished(() => void process.umask(0o022))
    open().add('job a', report('a'))
    expect(statSync(file).mode & 0o077).toBe(0)
    expect(statSync(stateDirectory).mode & 0o077).toBe(0)
  })

  test.each<[string, (file: string) => void]>([
    ['that is none', (file) => writeFileSync(file, 'this is no database, however long it goes on'.repeat(100))],
    [
      'that is torn',
      (file) => {
        const text = 'x'.repeat(200_000)
        const { open } = setUp(path.dirname(file))
        const journal = open()
        for (let n = 0; n < 20; n++) journal.add(`job ${n}`, report(`${n}`, text))
        journal.close()
        const bytes = new Uint8Array(4096 * 40).fill(7)
        const handle = new DataView(bytes.buffer)
        handle.setUint8(0, 13)
        writeFileSync(file, bytes, { flag: 'r+' })
      },
    ],
    [
      'of a newer version',
      (file) => {
        const db = new DatabaseSync(file)
        db.exec('PRAGMA user_version = 99')
        db.close()
      },
    ],
  ])('%s: is set aside under another name, told, and begun anew', (_name, damage) => {
    const { open, file, stateDirectory, lines } = setUp()
    damage(file)
    const journal = open()
    journal.add('job a', report('a'))
    expect(jobsOf(open())).toEqual(['a'])
    const [aside] = readdirSync(stateDirectory).filter((name) => /\.damaged-[0-9TZ-]+$/.test(name))
    expect(aside).toBeDefined()
    expect(lines).toMatchObject([{ event: 'journal_damaged', aside: path.join(stateDirectory, aside ?? '') }])
  })

  test('is off where its folder cannot be written, with one warning', () => {
    const blocked = path.join(scratchDirectory(), 'file')
    writeFileSync(blocked, '')
    const { open, lines } = setUp(path.join(blocked, 'state'))
    const journal = open()
    journal.add('job a', report('a'))
    journal.remove('job a')
    expect(journal.reports()).toEqual([])
    expect(lines).toMatchObject([{ event: 'journal_off', level: 40 }])
  })

  // Nothing is closed to root.
  if (process.getuid?.() !== 0)
    test('is off in a folder of somebody else', () => {
      const folder = scratchDirectory()
      mkdirSync(path.join(folder, 'state'))
      chmodSync(path.join(folder, 'state'), 0o500)
      const { open, events } = setUp(path.join(folder, 'state'))
      open()
      expect(events()).toEqual(['journal_off'])
    })

  test('that is full is told once, and works again when there is room', () => {
    const { open, events } = setUp()
    const journal = open({ mostPages: 16 })
    const text = 'x'.repeat(2000)
    for (let n = 0; n < 40; n++) journal.add(`job ${n}`, report(`${n}`, text))
    expect(events()).toEqual(['journal_failing'])
    const kept = jobsOf(journal)
    expect(kept.length).toBeGreaterThan(0)
    expect(kept.length).toBeLessThan(40)
    for (const job of kept) journal.remove(`job ${job}`)
    journal.add('job z', report('z'))
    expect(events()).toEqual(['journal_failing', 'journal_works'])
    expect(jobsOf(journal)).toEqual(['z'])
  })
})
