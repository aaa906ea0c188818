import { request } from 'undici'
import { systemClock } from '../../src/observability/clock.ts'

export interface Api {
  get<T>(path: string): Promise<T>
  post<T>(path: string, body?: unknown): Promise<T>
}

/** The public API as a client of it: a token, JSON, and an error for every status that is not 2xx. */
export const createApi = (url: string, token: string): Api => {
  const call = async <T>(method: 'GET' | 'POST', path: string, body?: unknown): Promise<T> => {
    const response = await request(`${url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.body.text()
    if (response.statusCode >= 300) throw new Error(`${method} ${path}: ${response.statusCode} ${text}`)
    return JSON.parse(text) as T
  }
  return { get: (path) => call('GET', path), post: (path, body) => call('POST', path, body) }
}

const PATIENCE_MS = 90_000
const LOOK_EVERY_MS = 100

/** Looks until what it sees is wanted. */
export const waitFor = async <T>(what: string, look: () => Promise<T>, wanted: (value: T) => boolean): Promise<T> => {
  const started = systemClock.monotonic()
  while (systemClock.monotonic() - started < PATIENCE_MS) {
    const value = await look()
    if (wanted(value)) return value
    await systemClock.sleep(LOOK_EVERY_MS)
  }
  throw new Error(`waited ${PATIENCE_MS / 1000} s for ${what}`)
}
