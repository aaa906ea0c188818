import { chmodSync, closeSync, existsSync, openSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import { grantPhase } from '../access/model.ts'
import { migrate } from './sqlite-migrations.ts'
import { type Page, type PageQuery, type Store, StoreFailure, type Tx } from './store.ts'

/** How long another process (a backup, `sqlite3` by hand) may hold the file before we give up. */
const BUSY_TIMEOUT_MS = 5000

type Columns = Readonly<Record<string, SQLInputValue>>
type Where = { readonly sql: string; readonly values: readonly SQLInputValue[] }

/** Prepared once each; the same few dozen statements run for ever. */
class Statements {
  readonly #db: DatabaseSync
  readonly #prepared = new Map<string, ReturnType<DatabaseSync['prepare']>>()

  constructor(db: DatabaseSync) {
    this.#db = db
  }

  #prepare(sql: string) {
    const known = this.#prepared.get(sql)
    if (known) return known
    const statement = this.#db.prepare(sql)
    this.#prepared.set(sql, statement)
    return statement
  }

  run(sql: string, ...values: SQLInputValue[]): void {
    this.#prepare(sql).run(...values)
  }

  all(sql: string, ...values: SQLInputValue[]): Record<string, unknown>[] {
    return this.#prepare(sql).all(...values)
  }

  get(sql: string, ...values: SQLInputValue[]): Record<string, unknown> | undefined {
    return this.#prepare(sql).get(...values)
  }
}

/** Rows are written by `put` of the same table only, so the stored shape is the type. */
const decode = <T>(row: Record<string, unknown>): T => JSON.parse(String(row['doc'])) as T

/**
 * A table of whole records: `doc` is the record, the other columns exist to find it by. `seq` is the order of
 * creation, and what pages continue from.
 */
class Table<T extends { readonly id: string }> {
  readonly #statements: Statements
  readonly #name: string
  readonly #columns: (record: T) => Columns

  constructor(statements: Statements, name: string, columns: (record: T) => Columns) {
    this.#statements = statements
    this.#name = name
    this.#columns = columns
  }

  async get(id: string): Promise<T | null> {
    return this.#one({ sql: 'id = ?', values: [id] })
  }

  async put(record: T): Promise<void> {
    const columns: Columns = { id: record.id, ...this.#columns(record), doc: JSON.stringify(record) }
    const names = Object.keys(columns)
    const updates = names.filter((name) => name !== 'id').map((name) => `${name} = excluded.${name}`)
    this.#statements.run(
      `INSERT INTO ${this.#name} (${names.join(', ')}) VALUES (${names.map(() => '?').join(', ')})
       ON CONFLICT (id) DO UPDATE SET ${updates.join(', ')}`,
      ...Object.values(columns),
    )
  }

  async remove(id: string): Promise<void> {
    this.#statements.run(`DELETE FROM ${this.#name} WHERE id = ?`, id)
  }

  async count(): Promise<number> {
    return Number(this.#statements.get(`SELECT count(*) AS n FROM ${this.#name}`)?.['n'])
  }

  async first(sql: string, ...values: SQLInputValue[]): Promise<T | null> {
    return this.#one({ sql, values })
  }

  async where(sql: string, ...values: SQLInputValue[]): Promise<readonly T[]> {
    return this.sorted('seq', sql, ...values)
  }

  /** By a column that the condition is about, so that its index gives both: sorted by `seq`, SQLite walks the table. */
  async sorted(column: string, sql: string, ...values: SQLInputValue[]): Promise<readonly T[]> {
    const query = `SELECT doc FROM ${this.#name} WHERE ${sql} ORDER BY ${column}`
    return this.#statements.all(query, ...values).map(decode<T>)
  }

  async page(query: PageQuery, filter: Where = { sql: 'true', values: [] }): Promise<Page<T>> {
    return pageOf<T>(this.#statements, this.#name, query, filter)
  }

  #one(where: Where): T | null {
    const row = this.#statements.get(`SELECT doc FROM ${this.#name} WHERE ${where.sql} LIMIT 1`, ...where.values)
    return row ? decode<T>(row) : null
  }
}

const pageOf = <T>(statements: Statements, table: string, query: PageQuery, filter: Where): Page<T> => {
  const [compare, order] = query.newestFirst ? ['<', 'DESC'] : ['>', 'ASC']
  const after = query.after ?? (query.newestFirst ? Number.MAX_SAFE_INTEGER : 0)
  const rows = statements.all(
    `SELECT seq, doc FROM ${table} WHERE (${filter.sql}) AND seq ${compare} ? ORDER BY seq ${order} LIMIT ?`,
    ...filter.values,
    after,
    query.limit + 1,
  )
  const kept = rows.slice(0, query.limit)
  const last = kept.at(-1)
  return { items: kept.map(decode<T>), next: rows.length > query.limit && last ? Number(last['seq']) : null }
}

const allOf = (conditions: readonly (Where | null)[]): Where => {
  const used = conditions.filter((condition) => condition !== null)
  if (used.length === 0) return { sql: 'true', values: [] }
  return { sql: used.map(({ sql }) => `(${sql})`).join(' AND '), values: used.flatMap(({ values }) => values) }
}

const equals = (column: string, value: string | undefined): Where | null =>
  value === undefined ? null : { sql: `${column} = ?`, values: [value] }

const metaOf = (statements: Statements): Tx['meta'] => ({
  get: async (name) => {
    const row = statements.get('SELECT value FROM meta WHERE name = ?', name)
    return row ? String(row['value']) : null
  },
  set: async (name, value) => {
    statements.run(
      'INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
      name,
      value,
    )
  },
})

const epochOf = (statements: Statements): Tx['epoch'] => ({
  next: async () => Number(statements.get('UPDATE counters SET epoch = epoch + 1 RETURNING epoch')?.['epoch']),
})

const usersOf = (statements: Statements): Tx['users'] => {
  const table = new Table<Row<'users'>>(statements, 'users', (user) => ({ email: user.email, login: user.login }))
  return {
    ...records(table),
    byEmail: (email) => table.first('email = ?', email),
    byLogin: (login) => table.first('login = ?', login),
    page: (query) => table.page(query),
    count: () => table.count(),
  }
}

const tokensOf = (statements: Statements): Tx['tokens'] => {
  const table = new Table<Row<'tokens'>>(statements, 'tokens', (token) => ({
    hash: token.hash,
    connector_id: token.connectorId,
    user_id: token.userId,
    label: token.label,
  }))
  return {
    ...records(table),
    byHash: (hash) => table.first('hash = ?', hash),
    byConnector: (id) => table.where('connector_id = ?', id),
    byUser: (id) => table.where('user_id = ?', id),
    byLabel: (label) => table.where('label = ?', label),
    remove: (id) => table.remove(id),
  }
}

const connectorsOf = (statements: Statements): Tx['connectors'] => {
  const table = new Table<Row<'connectors'>>(statements, 'connectors', () => ({}))
  return { ...records(table), page: (query) => table.page(query), remove: (id) => table.remove(id) }
}

const instancesOf = (statements: Statements): Tx['instances'] => {
  const table = new Table<Row<'instances'>>(statements, 'instances', (instance) => ({
    connector_id: instance.connectorId,
    last_seen_at: instance.lastSeenAt,
  }))
  return {
    ...records(table),
    byConnector: (id) => table.where('connector_id = ?', id),
    silentSince: (before) => table.sorted('last_seen_at', 'last_seen_at < ?', before),
    seenAfter: (at) => table.sorted('last_seen_at', 'last_seen_at > ?', at),
    remove: (id) => table.remove(id),
  }
}

const integrationsOf = (statements: Statements): Tx['integrations'] => {
  const table = new Table<Row<'integrations'>>(statements, 'integrations', (integration) => ({
    name: integration.name,
    connector_id: integration.connectorId,
    deleted_at: integration.deletedAt,
  }))
  return {
    ...records(table),
    page: (query) => table.page(query, { sql: 'deleted_at IS NULL', values: [] }),
    byName: (name) => table.first('name = ? AND deleted_at IS NULL', name),
    byConnector: (id) => table.where('connector_id = ? AND deleted_at IS NULL', id),
  }
}

const serversOf = (statements: Statements): Tx['servers'] => {
  const table = new Table<Row<'servers'>>(statements, 'servers', (server) => ({
    integration_id: server.integrationId,
    inspect_at: server.removedAt === null ? server.nextInspectAt : null,
  }))
  return {
    ...records(table),
    byIntegration: (id) => table.where('integration_id = ?', id),
    dueForInspection: (now) => table.sorted('inspect_at', 'inspect_at <= ?', now),
    inspectedAfter: (at) => table.sorted('inspect_at', 'inspect_at > ?', at),
  }
}

const requestsOf = (statements: Statements): Tx['requests'] => {
  const table = new Table<Row<'requests'>>(statements, 'requests', (request) => ({ user_id: request.userId }))
  return { ...records(table), page: (query) => table.page(query, allOf([equals('user_id', query.userId)])) }
}

const grantsOf = (statements: Statements): Tx['grants'] => {
  const table = new Table<Row<'grants'>>(statements, 'grants', (grant) => ({
    request_id: grant.requestId,
    user_id: grant.userId,
    server_id: grant.serverId,
    connector_id: grant.connectorId,
    phase: grantPhase(grant),
    ends_at: grant.state === 'present' && !grant.closed ? grant.notAfter : null,
  }))
  return {
    ...records(table),
    byRequest: (id) => table.where('request_id = ?', id),
    byServer: (id) => table.where('server_id = ?', id),
    page: (query) => table.page(query, allOf([equals('user_id', query.userId), equals('phase', query.phase)])),
    openOfConnector: (query) =>
      table.page(query, { sql: `connector_id = ? AND phase <> 'closed'`, values: [query.connectorId] }),
    overdue: async (now) =>
      statements.all('SELECT id FROM grants WHERE ends_at <= ? ORDER BY ends_at', now).map(({ id }) => String(id)),
  }
}

const jobsOf = (statements: Statements): Tx['jobs'] => {
  const table = new Table<Row<'jobs'>>(statements, 'jobs', (job) => ({
    connector_id: job.connectorId,
    server_key: job.serverKey,
    kind: job.kind,
    priority: job.priority,
    grant_id: job.grantId,
    server_id: job.serverId,
    open: job.open ? 1 : 0,
    due_at: job.dueAt,
    lease_until: job.lease?.until ?? null,
    lease_instance: job.lease?.instanceId ?? null,
  }))
  return {
    ...records(table),
    openOfGrant: (id) => table.where('grant_id = ? AND open = 1', id),
    openInspection: (id) => table.first(`server_id = ? AND kind = 'inspect' AND open = 1`, id),
    leasedBy: (id) => table.where('lease_instance = ?', id),
    lapsed: (now) => table.sorted('lease_until', 'lease_until <= ?', now),
    leasedAfter: (at) => table.sorted('lease_until', 'lease_until > ?', at),
    dueAfter: (at) => table.sorted('due_at', 'open = 1 AND lease_until IS NULL AND due_at > ?', at),
    forgetInspections: async (before, limit) => {
      for (const { id } of statements.all(LOOKED_AT, before, limit)) {
        statements.run('DELETE FROM outcomes WHERE subject = ?', String(id))
        statements.run('DELETE FROM jobs WHERE id = ?', String(id))
      }
    },
    claimable: async ({ connectorId, now, limit }) =>
      statements.all(CLAIMABLE, connectorId, now, now, limit).map(decode<Row<'jobs'>>),
  }
}

const LOOKED_AT = `
  SELECT id FROM jobs
   WHERE kind = 'inspect' AND open = 0 AND lease_until IS NULL AND due_at < ? ORDER BY due_at LIMIT ?`

/** The most urgent job of each server first: two of one server never come out together. */
const CLAIMABLE = `
  SELECT doc FROM (
    SELECT doc, priority, due_at, seq,
           row_number() OVER (PARTITION BY server_key ORDER BY priority, due_at, seq) AS place
      FROM jobs AS job
     WHERE open = 1 AND lease_until IS NULL AND connector_id = ? AND due_at <= ?
       AND NOT EXISTS (
         SELECT 1 FROM jobs AS other WHERE other.server_key = job.server_key AND other.lease_until > ?
       )
  ) WHERE place = 1 ORDER BY priority, due_at, seq LIMIT ?`

const outcomesOf = (statements: Statements): Tx['outcomes'] => ({
  get: async (subject, counter) => {
    const row = statements.get('SELECT doc FROM outcomes WHERE subject = ? AND counter = ?', subject, counter)
    return row ? decode(row) : null
  },
  add: async (outcome) =>
    statements.run(
      'INSERT INTO outcomes (subject, counter, doc) VALUES (?, ?, ?)',
      outcome.subject,
      outcome.counter,
      JSON.stringify(outcome),
    ),
})

const auditOf = (statements: Statements): Tx['audit'] => ({
  add: async (entry) => statements.run('INSERT INTO audit (doc) VALUES (?)', JSON.stringify(entry)),
  page: async (query) => pageOf(statements, 'audit', query, { sql: 'true', values: [] }),
})

const NEXT_DUE = `
  SELECT min(t) AS t FROM (
    SELECT min(due_at) AS t FROM jobs WHERE open = 1 AND lease_until IS NULL AND due_at > ?1
    UNION ALL SELECT min(lease_until) FROM jobs WHERE lease_until > ?1
    UNION ALL SELECT min(ends_at) FROM grants WHERE ends_at > ?1
    UNION ALL SELECT min(inspect_at) FROM servers WHERE inspect_at > ?1
  )`

type Row<Name extends keyof Tx> = Tx[Name] extends { get(id: string): Promise<infer R | null> }
  ? R & { readonly id: string }
  : never

const records = <T extends { readonly id: string }>(table: Table<T>) => ({
  get: (id: string) => table.get(id),
  put: (record: T) => table.put(record),
})

/** SQLite's codes for what a single statement can do wrong; after any other the database itself is in trouble. */
const STATEMENT_ERRORS: ReadonlySet<number> = new Set([1, 18, 19, 20, 25])
const PRIMARY_CODE = 0xff

const isStoreFailure = (error: unknown): boolean =>
  error instanceof Error &&
  'errcode' in error &&
  typeof error.errcode === 'number' &&
  !STATEMENT_ERRORS.has(error.errcode & PRIMARY_CODE)

const savepointOf =
  (db: DatabaseSync): Tx['savepoint'] =>
  async (work) => {
    db.exec('SAVEPOINT one')
    try {
      const result = await work()
      db.exec('RELEASE one')
      return result
    } catch (error) {
      if (error instanceof StoreFailure) throw error
      if (isStoreFailure(error) || !db.isTransaction) throw new StoreFailure(error)
      db.exec('ROLLBACK TO one; RELEASE one')
      throw error
    }
  }

const transactionOf = (db: DatabaseSync, statements: Statements): Tx => ({
  savepoint: savepointOf(db),
  meta: metaOf(statements),
  epoch: epochOf(statements),
  users: usersOf(statements),
  tokens: tokensOf(statements),
  connectors: connectorsOf(statements),
  instances: instancesOf(statements),
  integrations: integrationsOf(statements),
  servers: serversOf(statements),
  requests: requestsOf(statements),
  grants: grantsOf(statements),
  jobs: jobsOf(statements),
  outcomes: outcomesOf(statements),
  audit: auditOf(statements),
  nextDue: async (now) => {
    const at = statements.get(NEXT_DUE, now)?.['t']
    return typeof at === 'number' ? at : null
  },
})

/** One connection, so transactions take turns: between two awaits of one, another must not slip in. */
class SqliteStore implements Store {
  readonly #db: DatabaseSync
  readonly #statements: Statements
  readonly #tx: Tx
  #turn: Promise<unknown> = Promise.resolve()

  constructor(db: DatabaseSync) {
    this.#db = db
    this.#statements = new Statements(db)
    this.#tx = transactionOf(db, this.#statements)
  }

  write<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#inTurn('BEGIN IMMEDIATE', work)
  }

  async read<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#inTurn('BEGIN', async (tx) => {
      this.#db.exec('PRAGMA query_only = ON')
      try {
        return await work(tx)
      } finally {
        this.#db.exec('PRAGMA query_only = OFF')
      }
    })
  }

  async close(): Promise<void> {
    await this.#turn
    if (this.#db.isOpen) this.#db.close()
  }

  #inTurn<T>(begin: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    const mine = this.#turn.then(() => this.#transact(begin, work))
    this.#turn = mine.catch(() => undefined)
    return mine
  }

  async #transact<T>(begin: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    this.#db.exec(begin)
    try {
      const result = await work(this.#tx)
      this.#db.exec('COMMIT')
      return result
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw error
    }
  }
}

const OWNER_ONLY = 0o600

/** SQLite gives its side files the mode of the database, so it is made before SQLite would; older ones are corrected. */
const keepPrivate = (path: string): void => {
  if (path === ':memory:') return
  closeSync(openSync(path, 'a', OWNER_ONLY))
  for (const file of [path, `${path}-wal`, `${path}-shm`]) if (existsSync(file)) chmodSync(file, OWNER_ONLY)
}

/** Opens the file, or makes it, and brings it to the newest form. `:memory:` is for throw-away stores. */
export const openSqliteStore = (path: string): Store => {
  keepPrivate(path)
  // Savepoints spill into temporary files: on a read-only root there is no /tmp to put them, and what they hold is
  // nobody else's to read.
  if (path !== ':memory:') process.env['SQLITE_TMPDIR'] ??= dirname(resolve(path))
  const db = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS })
  // FULL: a grant that a connector was given must not be forgotten in a power cut.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY')
  migrate(db)
  return new SqliteStore(db)
}
