import { mkdirSync, renameSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { z } from 'zod'
import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import { KnownGrant, Report } from '../protocol/calls.ts'

/**
 * What must outlive the process: final outcomes that no control plane has answered for, and the grants whose end this
 * connector sees to. A file of SQLite in the state folder, written before a report is sent and cleared when it is answered, so
 * that an outcome gets there however often either side dies. No job is ever run again from it.
 *
 * Where the folder cannot be written the connector runs from memory, and says so once. A damaged file is set aside under
 * another name, for people to look at; the control plane hands out again what was in it.
 */
export interface Journal {
  /** What an earlier process has left, the oldest first. */
  reports(): readonly Report[]
  /** With what it means for the grant, in one transaction. */
  add(key: string, report: Report, change?: GrantChange): void
  remove(key: string): void
  grants(): readonly KnownGrant[]
  /** Of the control plane, as servers know it; null where it was never reached. Needed to end its grants while it is away. */
  controlPlaneId(): string | null
  metControlPlane(id: string): void
  change(changes: readonly GrantChange[]): void
  close(): void
}

export type GrantChange = { readonly learn: KnownGrant } | { readonly forget: string }

export interface JournalOptions {
  readonly clock: Clock
  readonly log: Logger
  /** Absolute; made if it is not there. */
  readonly stateDirectory: string
  /** Outcomes are for the control plane that the jobs came from, and shown to no other. */
  readonly url: string
  /** 4 KiB each: beyond that new outcomes are kept in memory. Default 25,000. */
  readonly mostPages?: number
}

const FILE = 'connector-journal.db'
const VERSION = 1
const SCHEMA = `
  CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    url TEXT NOT NULL,
    key TEXT NOT NULL,
    doc TEXT NOT NULL,
    UNIQUE (url, key)
  ) STRICT;
  CREATE TABLE control_planes (url TEXT PRIMARY KEY, id TEXT NOT NULL) STRICT;
  CREATE TABLE grants (
    url TEXT NOT NULL,
    id TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (url, id)
  ) STRICT;
  PRAGMA user_version = ${VERSION};`

class Unreadable extends Error {}

const versionOf = (db: DatabaseSync): unknown => db.prepare('PRAGMA user_version').get()?.['user_version']

/** Throws {@link Unreadable} for a file whose content is not ours to use. */
const prepare = (db: DatabaseSync, mostPages: number): void => {
  // FULL: what was said to be written is, also after a power cut.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;')
  db.exec(`PRAGMA max_page_count = ${mostPages};`)
  const checked = db.prepare('PRAGMA quick_check(1)').get()?.['quick_check']
  if (checked !== 'ok') throw new Unreadable('damaged')
  if (versionOf(db) === 0) db.exec(SCHEMA)
  else if (versionOf(db) !== VERSION) throw new Unreadable('of another version')
}

const openFile = (file: string, mostPages: number): DatabaseSync => {
  const db = new DatabaseSync(file)
  try {
    prepare(db, mostPages)
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

const errorCodeOf = (error: unknown): number => {
  const { errcode } = (error ?? {}) as { errcode?: unknown }
  return typeof errcode === 'number' ? errcode & 0xff : 0
}

/** SQLITE_CORRUPT and SQLITE_NOTADB; anything else (no permission, no space, read-only) says nothing of the content. */
const isDamaged = (error: unknown): boolean => error instanceof Unreadable || [11, 26].includes(errorCodeOf(error))

const reasonOf = (error: unknown): string => {
  if (error instanceof Unreadable) return error.message
  const { code } = error as NodeJS.ErrnoException
  return `${code ?? 'unknown'}${errorCodeOf(error) === 0 ? '' : ` ${errorCodeOf(error)}`}`
}

const setAside = (file: string, clock: Clock): string => {
  const aside = `${file}.damaged-${new Date(clock.now()).toISOString().replaceAll(/[:.]/g, '-')}`
  renameSync(file, aside)
  for (const suffix of ['-wal', '-shm']) {
    try {
      renameSync(`${file}${suffix}`, `${aside}${suffix}`)
    } catch {
      // There need not be one.
    }
  }
  return aside
}

const openOrSetAside = ({ clock, log, stateDirectory, mostPages = 25_000 }: JournalOptions): DatabaseSync | null => {
  const file = path.join(stateDirectory, FILE)
  try {
    mkdirSync(stateDirectory, { recursive: true, mode: 0o700 })
    try {
      return openFile(file, mostPages)
    } catch (error) {
      if (!isDamaged(error)) throw error
      const aside = setAside(file, clock)
      log.error(
        { event: 'journal_damaged', reason: reasonOf(error), aside },
        'the journal was damaged and is set aside',
      )
      return openFile(file, mostPages)
    }
  } catch (error) {
    log.warn(
      { event: 'journal_off', directory: stateDirectory, reason: reasonOf(error) },
      'the state folder cannot be written: outcomes that are not confirmed are lost with this process',
    )
    return null
  }
}

/** Runs from memory. */
export const NO_JOURNAL: Journal = {
  reports: () => [],
  add: () => undefined,
  remove: () => undefined,
  grants: () => [],
  controlPlaneId: () => null,
  metControlPlane: () => undefined,
  change: () => undefined,
  close: () => undefined,
}

/** What does not read any more, of another version for instance, is what the control plane is asked for again. */
const readable = <T>(schema: z.ZodType<T>, rows: readonly Record<string, unknown>[]): T[] =>
  rows.flatMap(({ doc }) => {
    const parsed = schema.safeParse(JSON.parse(String(doc)))
    return parsed.success ? [parsed.data] : []
  })

export const openJournal = (options: JournalOptions): Journal => {
  const { log, url } = options
  const db = openOrSetAside(options)
  if (db === null) return NO_JOURNAL
  const all = db.prepare('SELECT doc FROM outbox WHERE url = ? ORDER BY seq')
  const insert = db.prepare(
    'INSERT INTO outbox (url, key, doc) VALUES (?, ?, ?) ON CONFLICT (url, key) DO UPDATE SET doc = excluded.doc',
  )
  const remove = db.prepare('DELETE FROM outbox WHERE url = ? AND key = ?')
  const known = db.prepare('SELECT doc FROM grants WHERE url = ?')
  const learn = db.prepare(
    'INSERT INTO grants (url, id, doc) VALUES (?, ?, ?) ON CONFLICT (url, id) DO UPDATE SET doc = excluded.doc',
  )
  const met = db.prepare('SELECT id FROM control_planes WHERE url = ?')
  const meet = db.prepare(
    'INSERT INTO control_planes (url, id) VALUES (?, ?) ON CONFLICT (url) DO UPDATE SET id = excluded.id',
  )
  const forget = db.prepare('DELETE FROM grants WHERE url = ? AND id = ?')
  let failing = false

  /** The outcome is in memory as well: what cannot be written is no reason to hold it back. */
  const attempt = (write: () => unknown): void => {
    try {
      write()
      if (failing) log.info({ event: 'journal_works' }, 'the journal is written again')
      failing = false
    } catch (error) {
      if (!failing) log.error({ event: 'journal_failing', reason: reasonOf(error) }, 'the journal cannot be written')
      failing = true
    }
  }

  const apply = (changes: readonly GrantChange[]): void => {
    for (const change of changes) {
      if ('learn' in change) learn.run(url, change.learn.grant.id, JSON.stringify(change.learn))
      else forget.run(url, change.forget)
    }
  }

  const inOne = (write: () => void): void => {
    db.exec('BEGIN IMMEDIATE')
    try {
      write()
      db.exec('COMMIT')
    } catch (error) {
      if (db.isTransaction) db.exec('ROLLBACK')
      throw error
    }
  }

  return {
    reports: () => readable(Report, all.all(url)),
    add: (key, report, change) =>
      attempt(() =>
        inOne(() => {
          insert.run(url, key, JSON.stringify(report))
          apply(change === undefined ? [] : [change])
        }),
      ),
    remove: (key) => attempt(() => remove.run(url, key)),
    grants: () => readable(KnownGrant, known.all(url)),
    controlPlaneId: () => {
      const id = met.get(url)?.['id']
      return typeof id === 'string' ? id : null
    },
    metControlPlane: (id) => attempt(() => meet.run(url, id)),
    change: (changes) => {
      if (changes.length > 0) attempt(() => inOne(() => apply(changes)))
    },
    close: () => db.close(),
  }
}
