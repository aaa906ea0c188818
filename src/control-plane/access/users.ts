import { z } from 'zod'
import { CREATABLE_LOGIN } from '../../protocol/primitives.ts'
import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import { type Deps, newId } from './deps.ts'
import { conflict, invalid } from './domain-error.ts'
import { parseInput } from './input.ts'
import { isWellKnownAccount, loginCandidates } from './login.ts'
import type { UserRecord } from './model.ts'

const UserInput = z.object({
  email: z
    .string()
    .max(254)
    .regex(/^[^\s@,\p{Cc}]+@[^\s@,\p{Cc}]+$/u, 'must be an email address')
    .transform((email) => email.toLowerCase()),
  login: z.string().regex(CREATABLE_LOGIN, 'must match ^[a-z_][a-z0-9_-]{0,31}$').optional(),
  role: z.enum(['admin', 'user']).default('user'),
})

const freeLogin = async (tx: Tx, email: string): Promise<string> => {
  for (const candidate of loginCandidates(email)) {
    if (!(await tx.users.byLogin(candidate))) return candidate
  }
  throw new Error('loginCandidates never ends')
}

const chosenLogin = async (tx: Tx, login: string): Promise<string> => {
  if (isWellKnownAccount(login)) throw invalid([{ path: 'login', message: 'is the name of a system account' }])
  if (await tx.users.byLogin(login)) throw conflict('another person has this login')
  return login
}

/** The login is decided here, once: an account on a server must never pass from one person to another. */
export const createUser = async (tx: Tx, deps: Deps, actor: string, body: unknown): Promise<UserRecord> => {
  const input = parseInput(UserInput, body)
  if (await tx.users.byEmail(input.email)) throw conflict('a user with this email exists')
  const login = input.login ? await chosenLogin(tx, input.login) : await freeLogin(tx, input.email)
  const user: UserRecord = {
    id: newId('usr', deps.random),
    email: input.email,
    login,
    role: input.role,
    createdAt: deps.clock.now(),
  }
  await tx.users.put(user)
  await audit(tx, deps, actor, 'user.created', user.id, { email: user.email, login, role: user.role })
  return user
}
