import type { DatabaseSync } from 'node:sqlite'

const recordTable = (name: string, columns: string): string =>
  `CREATE TABLE ${name} (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, ${columns} doc TEXT NOT NULL) STRICT;`

/**
 * Forward only: what was released is never edited, a change is a new entry. `user_version` counts those applied, so
 * an older program refuses a newer file instead of misreading it.
 */
const MIGRATIONS: readonly string[] = [
  [
    'CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;',
    'CREATE TABLE counters (epoch INTEGER NOT NULL) STRICT; INSERT INTO counters (epoch) VALUES (0);',
    recordTable('users', 'email TEXT NOT NULL UNIQUE, login TEXT NOT NULL UNIQUE,'),
    recordTable('tokens', 'hash TEXT NOT NULL UNIQUE, connector_id TEXT,'),
    recordTable('connectors', ''),
    recordTable('instances', 'connector_id TEXT NOT NULL, last_seen_at INTEGER NOT NULL,'),
    recordTable('integrations', 'name TEXT NOT NULL, connector_id TEXT NOT NULL, deleted_at INTEGER,'),
    'CREATE UNIQUE INDEX integrations_name ON integrations (name) WHERE deleted_at IS NULL;',
    recordTable('servers', 'integration_id TEXT NOT NULL, inspect_at INTEGER,'),
    'CREATE INDEX servers_integration ON servers (integration_id);',
    'CREATE INDEX servers_inspect ON servers (inspect_at) WHERE inspect_at IS NOT NULL;',
    recordTable('requests', 'user_id TEXT NOT NULL,'),
    'CREATE INDEX requests_user ON requests (user_id, seq);',
    recordTable(
      'grants',
      `request_id TEXT NOT NULL, user_id TEXT NOT NULL, server_id TEXT NOT NULL, connector_id TEXT NOT NULL,
       phase TEXT NOT NULL, ends_at INTEGER,`,
    ),
    'CREATE INDEX grants_request ON grants (request_id);',
    'CREATE INDEX grants_server ON grants (server_id);',
    'CREATE INDEX grants_user ON grants (user_id, phase, seq);',
    `CREATE INDEX grants_connector ON grants (connector_id, seq) WHERE phase <> 'closed';`,
    'CREATE INDEX grants_end ON grants (ends_at) WHERE ends_at IS NOT NULL;',
    recordTable(
      'jobs',
      `connector_id TEXT NOT NULL, server_key TEXT NOT NULL, kind TEXT NOT NULL, priority INTEGER NOT NULL,
       grant_id TEXT, server_id TEXT NOT NULL, open INTEGER NOT NULL, due_at INTEGER NOT NULL,
       lease_until INTEGER, lease_instance TEXT,`,
    ),
    'CREATE INDEX jobs_ready ON jobs (connector_id, due_at) WHERE open = 1 AND lease_until IS NULL;',
    'CREATE INDEX jobs_due ON jobs (due_at) WHERE open = 1 AND lease_until IS NULL;',
    'CREATE INDEX jobs_held ON jobs (server_key, lease_until) WHERE lease_until IS NOT NULL;',
    'CREATE INDEX jobs_lease ON jobs (lease_until) WHERE lease_until IS NOT NULL;',
    'CREATE INDEX jobs_holder ON jobs (lease_instance) WHERE lease_instance IS NOT NULL;',
    'CREATE INDEX jobs_grant ON jobs (grant_id) WHERE open = 1;',
    'CREATE INDEX jobs_server ON jobs (server_id) WHERE open = 1;',
    `CREATE TABLE outcomes (subject TEXT NOT NULL, counter INTEGER NOT NULL, doc TEXT NOT NULL,
       PRIMARY KEY (subject, counter)) STRICT, WITHOUT ROWID;`,
    'CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL) STRICT;',
  ].join('\n'),
  [
    'ALTER TABLE tokens ADD COLUMN user_id TEXT;',
    'ALTER TABLE tokens ADD COLUMN label TEXT;',
    `UPDATE tokens SET user_id = json_extract(doc, '$.userId'), label = json_extract(doc, '$.label');`,
    'CREATE INDEX tokens_user ON tokens (user_id);',
    'CREATE INDEX tokens_connector ON tokens (connector_id);',
    // What was looked at long ago is forgotten, by age.
    `CREATE INDEX jobs_looked ON jobs (due_at) WHERE kind = 'inspect' AND open = 0 AND lease_until IS NULL;`,
  ].join('\n'),
]

/** Each step and its version number are one transaction: a crash leaves the step done or not begun. */
export const migrate = (db: DatabaseSync): void => {
  const version = Number(db.prepare('PRAGMA user_version').get()?.['user_version'])
  if (version > MIGRATIONS.length) {
    throw new Error(`the database was written by a newer version (${version}, this one knows ${MIGRATIONS.length})`)
  }
  MIGRATIONS.slice(version).forEach((sql, index) => {
    db.exec(`BEGIN IMMEDIATE; ${sql} PRAGMA user_version = ${version + index + 1}; COMMIT`)
  })
}
