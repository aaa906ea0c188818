import { z } from 'zod'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import { untilAborted, withDeadline } from '../ssh/deadline.ts'
import { type Answer, type Environment, storeHttp } from './network.ts'
import { type Secret, secretOf } from './secret.ts'
import { accessDenied, unreachable } from './store-errors.ts'
import type { VaultConfig } from './vault-config.ts'
import { proveVaultLogin } from './vault-login.ts'

/** Being logged in to Vault: one token that all reads share, got anew when it is used up or refused. */
export interface VaultSession {
  /** Answers as Vault does. Fails with `secret_store_unreachable`, or `secret_access_denied` where the login is refused. */
  get(path: string, signal: AbortSignal): Promise<Answer>
  /** Gives back a token that a login gave; one that the environment gave is its owner's. */
  close(): Promise<void>
}

export interface VaultSessionOptions {
  readonly config: VaultConfig
  readonly environment: Environment
  readonly clock: Clock
}

interface Token {
  readonly token: Secret
  /** Got by a login, so that it is ours to give back. */
  readonly own: boolean
  /** By the monotonic clock; Infinity for one that has no end, or whose end we are not told. */
  readonly usableUntil: number
}

/** A token is used for this part of its life, so that none ends on the way. */
const USED_LIFE = 0.8
const LOGIN_MS = 5000
const REVOKE_MS = 2000

const LoggedIn = z.object({
  auth: z.object({ client_token: z.string().min(1), lease_duration: z.number().default(0) }),
})

const calledOff = (): JobError => new JobError('cancelled', 'called off while logging in to Vault')

const encoded = (path: string): string => path.split('/').map(encodeURIComponent).join('/')

export const createVaultSession = ({ config, environment, clock }: VaultSessionOptions): VaultSession => {
  const name = `Vault at ${config.address}`
  const http = storeHttp({ name, environment, clock, caFile: config.caFile ?? undefined })
  const namespace = config.namespace === null ? {} : { 'x-vault-namespace': config.namespace }
  let login: Promise<Token> | null = null

  const send = (path: string, signal: AbortSignal, token: Secret | null, body?: object): Promise<Answer> =>
    http.send({
      url: new URL(`/v1/${encoded(path)}`, config.address),
      signal,
      headers: { 'x-vault-request': 'true', ...namespace, ...(token ? { 'x-vault-token': token.reveal() } : {}) },
      ...(body === undefined ? {} : { method: 'POST' as const, body }),
    })

  const refused = ({ status }: Answer): JobError =>
    accessDenied(
      `${name} did not take the connector's login by ${config.login.method} (${status})`,
      'Look at the role, what it is bound to and, for AppRole, whether the secret id has expired.',
    )

  const prove = async (signal: AbortSignal): Promise<Token> => {
    const proof = await proveVaultLogin(config.login, environment)
    if ('token' in proof) return { token: secretOf(proof.token), own: false, usableUntil: Number.POSITIVE_INFINITY }
    const answer = await send(`auth/${proof.mount}/login`, signal, null, proof.body)
    const parsed = LoggedIn.safeParse(answer.body)
    if (answer.status !== 200 || !parsed.success) throw refused(answer)
    const { client_token: token, lease_duration: seconds } = parsed.data.auth
    const life = seconds === 0 ? Number.POSITIVE_INFINITY : seconds * 1000 * USED_LIFE
    return { token: secretOf(token), own: true, usableUntil: clock.monotonic() + life }
  }

  /** All reads wait for the same one: it belongs to none of them, and has a deadline of its own. */
  const logIn = async (): Promise<Token> => {
    const over = new AbortController()
    const proving = prove(over.signal)
    try {
      const onTimeout = () => unreachable(`${name}: no login by ${config.login.method} within ${LOGIN_MS} ms`)
      return await withDeadline(proving, { clock, ms: LOGIN_MS, onTimeout, onAbort: calledOff })
    } catch (error) {
      over.abort()
      // One that comes when nobody waits any more.
      proving.then(giveBack, () => undefined)
      throw error
    }
  }

  const begin = (): Promise<Token> => {
    const beginning = logIn()
    login = beginning
    beginning.catch(() => forget(beginning))
    return beginning
  }

  const forget = (former: Promise<Token>): void => {
    if (login === former) login = null
  }

  /** Best effort: Vault ends it by itself in the end. */
  const giveBack = async ({ own, token }: Token): Promise<void> => {
    if (!own) return
    await send('auth/token/revoke-self', AbortSignal.timeout(REVOKE_MS), token, {}).catch(() => undefined)
  }

  const held = async (signal: AbortSignal): Promise<{ readonly token: Token; readonly by: Promise<Token> }> => {
    const by = login ?? begin()
    try {
      return { token: await untilAborted(by, signal, calledOff), by }
    } catch (error) {
      // One that hangs is for whoever waits for it still; who comes later begins another.
      forget(by)
      throw error
    }
  }

  const usable = async (signal: AbortSignal) => {
    const first = await held(signal)
    if (first.token.usableUntil > clock.monotonic()) return first
    forget(first.by)
    const second = await held(signal)
    giveBack(first.token)
    return second
  }

  /** A policy that does not allow something answers as a token does that is none any more. */
  const isTaken = async (token: Token, signal: AbortSignal): Promise<boolean> =>
    (await send('auth/token/lookup-self', signal, token.token)).status !== 403

  const get = async (path: string, signal: AbortSignal): Promise<Answer> => {
    const { token, by } = await usable(signal)
    const answer = await send(path, signal, token.token)
    if (answer.status !== 403 || (await isTaken(token, signal))) return answer
    forget(by)
    return await send(path, signal, (await held(signal)).token.token)
  }

  return {
    get,
    close: async () => {
      const ending = login
      login = null
      const token = await ending?.catch(() => null)
      if (token) await giveBack(token)
      token?.token.dispose()
      await http.close()
    },
  }
}
