/**
 * Several connectors of one control plane, each with a connection of its own to one server; what may be repeated is
 * repeated, as a control plane has it do.
 */
import { expect } from 'vitest'
import { ensureAbsent, ensurePresent, type RunContext } from '../../src/host/host-program.ts'
import type { HostLink } from '../../src/host/link.ts'
import type { TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type GrantOptions, makePerson, openSshLink, runContext } from './person.ts'

const CONNECTORS = 4
const ATTEMPTS = 5

const isRetryable = (error: unknown): boolean =>
  error instanceof Error && 'retryable' in error && error.retryable === true

const repeated = async <T>(act: () => Promise<T>): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act()
    } catch (error) {
      if (attempt === ATTEMPTS || !isRetryable(error)) throw error
    }
  }
}

export const connect = async (host: TestHost) => {
  const person = await makePerson(host)
  const links = await Promise.all(
    Array.from({ length: CONNECTORS }, (_, n) => openSshLink(host, `${scratchDirectory()}/${n}`)),
  )
  // sshd knows our setting, and the connections stand: each takes ten sessions at once.
  await person.present({ id: 'grt_first', login: 'first' })
  for (const link of links) expect((await link.exec('true', '', { timeoutMs: 15_000 })).exitCode).toBe(0)
  const link = (n: number): HostLink => links[n % CONNECTORS] as HostLink

  /** The nth connector gives a grant. */
  const grant = (n: number, options: GrantOptions, context: Partial<RunContext> = {}) => {
    const request = person.request(options, 'present')
    return repeated(() => ensurePresent(link(n), { ...runContext(), ...context }, request))
  }
  /** The nth connector ends it, by default with generation 2. */
  const end = (n: number, options: GrantOptions, context: Partial<RunContext> = {}) => {
    const request = person.request({ generation: 2, ...options }, 'absent')
    return repeated(() => ensureAbsent(link(n), { ...runContext(), ...context }, request))
  }
  return { person, grant, end }
}

export type Connectors = Awaited<ReturnType<typeof connect>>
