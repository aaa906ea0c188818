import type { FastifyRequest } from 'fastify'
import { forbidden } from '../access/domain-error.ts'
import type { TokenRecord, UserRecord } from '../access/model.ts'
import { findToken } from '../access/tokens.ts'
import type { Tx } from '../store/store.ts'
import { unauthorized } from './errors.ts'

/** Longer than any token: what is above it is not even hashed. */
const MAX_HEADER = 1024

const bearer = (request: FastifyRequest): string | null => {
  const header = request.headers.authorization ?? ''
  if (header.length > MAX_HEADER) return null
  return /^Bearer ([\x21-\x7e]+)$/i.exec(header)?.[1] ?? null
}

const tokenOf = async (tx: Tx, request: FastifyRequest): Promise<TokenRecord> => {
  const text = bearer(request)
  const token = text === null ? null : await findToken(tx, text)
  if (!token) throw unauthorized()
  return token
}

export const connectorCaller = async (tx: Tx, request: FastifyRequest): Promise<TokenRecord> => {
  const token = await tokenOf(tx, request)
  if (token.kind !== 'connector') throw unauthorized()
  return token
}

/** A connector's token opens nothing here, and does not learn that it is one. */
export const userCaller = async (tx: Tx, request: FastifyRequest): Promise<UserRecord> => {
  const token = await tokenOf(tx, request)
  const user = token.userId === null ? null : await tx.users.get(token.userId)
  if (!user) throw unauthorized()
  return user
}

/** Asked before anything is looked up, so that a refusal says nothing about what exists. */
export const adminCaller = async (tx: Tx, request: FastifyRequest): Promise<UserRecord> => {
  const user = await userCaller(tx, request)
  if (user.role !== 'admin') throw forbidden()
  return user
}
