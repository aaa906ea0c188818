import { chmod, stat } from 'node:fs/promises'
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

  test('only the owner may read the files, whatever the umask, and those of before too', async () => {
    const path = join(await tempFolder(), 'store.db')
    const files = [path, `${path}-wal`, `${path}-shm`]
    const modes = () => Promise.all(files.map(async (file) => (await stat(file)).mode & 0o777))
    const store = openSqliteStore(path)
    expect(await modes()).toEqual([0o600, 0o600, 0o600])
    // The first one stays open, so that the side files are there, as after a crash.
    for (const file of files) await chmod(file, 0o644)
    const again = openSqliteStore(path)
    expect(await modes()).toEqual([0o600, 0o600, 0o600])
    await again.close()
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
