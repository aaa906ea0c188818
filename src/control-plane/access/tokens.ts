import { createHash, timingSafeEqual } from 'node:crypto'
import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import { type Deps, newId } from './deps.ts'
import type { TokenRecord } from './model.ts'

const TOKEN_BYTES = 32

/** Shorter ones could be guessed; those we make have 43 characters and a prefix. */
export const MIN_TOKEN_LENGTH = 32

export const hashToken = (token: string): string => createHash('sha256').update(token).digest('hex')

type Owner = Pick<TokenRecord, 'kind' | 'userId' | 'connectorId' | 'label'>

export const userToken = (userId: string, label = ''): Owner => ({ kind: 'user', userId, connectorId: null, label })
export const connectorToken = (connectorId: string | null, label = ''): Owner => ({
  kind: 'connector',
  userId: null,
  connectorId,
  label,
})

/** Makes a token and returns it; only its hash is kept, so this is the one time that it can be shown. */
export const issueToken = async (tx: Tx, deps: Deps, owner: Owner): Promise<string> => {
  const prefix = owner.kind === 'user' ? 'aup' : 'apc'
  const token = `${prefix}_${deps.random(TOKEN_BYTES).toString('base64url')}`
  await registerToken(tx, deps, owner, token)
  return token
}

/** Of the same kind and label, for the same person or connector. One that names no connector replaces any. */
const formerTokens = async (tx: Tx, owner: Owner): Promise<readonly TokenRecord[]> => {
  if (owner.label === '') return []
  const sameOwner = (former: TokenRecord): boolean =>
    former.kind === owner.kind &&
    former.userId === owner.userId &&
    [null, former.connectorId].includes(owner.connectorId)
  return (await tx.tokens.byLabel(owner.label)).filter(sameOwner)
}

/**
 * Lets a token in that was made elsewhere (a file of the deployment). Does nothing when it is known; else it replaces
 * the former of its label, and takes over the connector that one was bound to.
 */
export const registerToken = async (tx: Tx, deps: Deps, owner: Owner, token: string): Promise<void> => {
  const hash = hashToken(token)
  if (await tx.tokens.byHash(hash)) return
  const former = await formerTokens(tx, owner)
  for (const { id } of former) await tx.tokens.remove(id)
  const connectorId = owner.connectorId ?? former.at(-1)?.connectorId ?? null
  await tx.tokens.put({ ...owner, connectorId, id: newId('tok', deps.random), hash, createdAt: deps.clock.now() })
}

/** Whoever uses one of them is out with their next call. */
export const removeTokens = async (
  tx: Tx,
  deps: Deps,
  actor: string,
  subject: string,
  tokens: readonly TokenRecord[],
): Promise<void> => {
  for (const { id } of tokens) await tx.tokens.remove(id)
  await audit(tx, deps, actor, 'token.deleted', subject, { tokens: tokens.length })
}

export const findToken = async (tx: Tx, token: string): Promise<TokenRecord | null> => {
  const hash = hashToken(token)
  const found = await tx.tokens.byHash(hash)
  // The index already compared hashes; this one keeps a store with a looser comparison honest.
  return found && timingSafeEqual(Buffer.from(found.hash), Buffer.from(hash)) ? found : null
}
