import { readFile } from 'node:fs/promises'
import { audit, SYSTEM } from './access/audit.ts'
import { reserveConnector } from './access/connectors.ts'
import { type Deps, newId } from './access/deps.ts'
import type { UserRecord } from './access/model.ts'
import { connectorToken, findToken, issueToken, MIN_TOKEN_LENGTH, registerToken, userToken } from './access/tokens.ts'
import { createUser } from './access/users.ts'
import type { ControlPlaneConfig } from './config.ts'
import type { Store, Tx } from './store/store.ts'

const FIRST_ADMIN_EMAIL = 'admin@localhost'

/** Stable for the life of the data: servers keep it as half of each record's key. */
export const ensureControlPlaneId = async (tx: Tx, deps: Deps): Promise<string> => {
  const known = await tx.meta.get('controlPlaneId')
  if (known !== null) return known
  const id = newId('cp', deps.random)
  await tx.meta.set('controlPlaneId', id)
  return id
}

/** Null where the file is not there (yet). */
const readToken = async (path: string | null): Promise<string | null> => {
  if (path === null) return null
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  const token = text?.trim() ?? null
  if (token !== null && !(token.length >= MIN_TOKEN_LENGTH && /^[\x21-\x7e]+$/.test(token))) {
    throw new Error(`${path}: a token has at least ${MIN_TOKEN_LENGTH} printable characters and no spaces`)
  }
  return token
}

const ensureFirstAdmin = async (tx: Tx, deps: Deps): Promise<UserRecord> =>
  (await tx.users.byEmail(FIRST_ADMIN_EMAIL)) ??
  (await createUser(tx, deps, SYSTEM, { email: FIRST_ADMIN_EMAIL, role: 'admin' }))

const registerConnectorToken = async (tx: Tx, deps: Deps, token: string, id: string | null): Promise<void> => {
  if (id !== null) await reserveConnector(tx, id)
  await registerToken(tx, deps, connectorToken(id, 'first'), token)
}

/** What the token that we made for the first admin is known by until it was shown; then `SHOWN`. */
const FIRST_TOKEN = 'firstAdminToken'
const SHOWN = 'shown'

/** Makes the first admin and lets in the tokens that the deployment brought. */
export const prepareFirstStart = async (
  store: Store,
  deps: Deps,
  config: ControlPlaneConfig,
): Promise<{ controlPlaneId: string; adminId: string }> => {
  const adminToken = await readToken(config.firstAdminTokenFile)
  const firstConnectorToken = await readToken(config.firstConnectorTokenFile)
  return store.write(async (tx) => {
    const controlPlaneId = await ensureControlPlaneId(tx, deps)
    const admin = await ensureFirstAdmin(tx, deps)
    if (adminToken !== null) {
      await registerToken(tx, deps, userToken(admin.id, 'first'), adminToken)
      await firstTokenShown(tx)
    }
    if (firstConnectorToken !== null)
      await registerConnectorToken(tx, deps, firstConnectorToken, config.firstConnectorId)
    return { controlPlaneId, adminId: admin.id }
  })
}

/**
 * A token for the first admin, until somebody has seen one: a start that failed before it was shown must not leave a
 * control plane that nobody can enter. The one before it is taken back.
 */
export const issueFirstAdminToken = async (tx: Tx, deps: Deps, adminId: string): Promise<string | null> => {
  const known = await tx.meta.get(FIRST_TOKEN)
  if (known === SHOWN) return null
  // Of a version that did not note it: a token that may be in use is left alone.
  if (known === null && (await tx.tokens.byUser(adminId)).length > 0) return null
  if (known !== null) await tx.tokens.remove(known)
  const token = await issueToken(tx, deps, userToken(adminId, 'first'))
  const record = await findToken(tx, token)
  await tx.meta.set(FIRST_TOKEN, record?.id ?? SHOWN)
  return token
}

/** It was printed, or one was brought: none is made any more. */
export const firstTokenShown = (tx: Tx): Promise<void> => tx.meta.set(FIRST_TOKEN, SHOWN)

/** A token under this label replaces the one before: a process that gets one at each start leaves no old ones behind. */
export const replaceConnectorToken = async (
  tx: Tx,
  deps: Deps,
  connectorId: string,
  label: string,
): Promise<string> => {
  await reserveConnector(tx, connectorId)
  for (const token of await tx.tokens.byConnector(connectorId)) {
    if (token.label === label) await tx.tokens.remove(token.id)
  }
  await audit(tx, deps, SYSTEM, 'token.created', connectorId, { kind: 'connector', label })
  return issueToken(tx, deps, connectorToken(connectorId, label))
}
