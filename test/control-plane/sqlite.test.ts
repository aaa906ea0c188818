import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { openSqliteStore } from '../../src/control-plane/store/sqlite.ts'
import { tempFolder } from './harness.ts'
import { describeStore } from './store-conformance.ts'

describe('the SQLite store', () => {
  describeStore(async () => {
    const path = join(await tempFolder(), 'store.db')
    return { open: async () => openSqliteStore(path) }
  })

  test('is written ahead and synced at each commit', async () => {
    const path = join(await tempFolder(), 'store.db')
    const store = openSqliteStore(path)
    const other = new DatabaseSync(path)
    expect(other.prepare('PRAGMA journal_mode').get()).toEqual({ journal_mode: 'wal' })
    other.close()
    await store.close()
  })

  test('a file of a newer version is refused, not misread', async () => {
    const path = join(await tempFolder(), 'store.db')
    await openSqliteStore(path).close()
    const db = new DatabaseSync(path)
    db.exec('PRAGMA user_version = 999')
    db.close()
    expect(() => openSqliteStore(path)).toThrow(/newer version/)
  })
})
