import net from 'node:net'
import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import { withDeadline } from './deadline.ts'
import { tcpFailure } from './trouble.ts'

/** Addresses that were looked up once and checked: nothing is resolved again on the way to the socket. */
export interface CheckedAddress {
  readonly address: string
  readonly family: 4 | 6
}

export interface SocketOptions {
  readonly clock: Clock
  readonly timeoutMs: number
  readonly signal?: AbortSignal | undefined
}

/** Node asks for one address or for all of them, depending on how it is about to connect. */
const lookupChecked =
  (addresses: readonly CheckedAddress[]): net.LookupFunction =>
  (_host, options, callback) => {
    const [first] = addresses
    if (options.all === true) callback(null, [...addresses])
    else callback(null, first?.address ?? '', first?.family)
  }

const connected = (socket: net.Socket): Promise<void> =>
  new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })

/** What is written in one go of the event loop leaves in one system call, and mostly in one packet. */
const writeTogether = (socket: net.Socket): net.Socket => {
  const write = socket.write
  socket.write = (...written: unknown[]): boolean => {
    if (socket.writableCorked === 0) {
      socket.cork()
      process.nextTick(() => socket.uncork())
    }
    return Reflect.apply(write, socket, written)
  }
  return socket
}

/**
 * A TCP connection without Nagle: waiting for acknowledgements costs a factor of 20 on a warm exec, and ssh2 leaves
 * it on. Fails with `ssh_unreachable`, `ssh_turned_away`, `ssh_timeout` or `cancelled`.
 */
export const openSocket = async (
  port: number,
  addresses: readonly CheckedAddress[],
  options: SocketOptions,
  facts: ErrorFacts,
): Promise<net.Socket> => {
  const socket = net.connect({ host: 'checked', port, noDelay: true, lookup: lookupChecked(addresses) })
  // Permanent: a socket may report an error more than once, and an unheard one ends the process.
  socket.on('error', () => undefined)
  try {
    await withDeadline(connected(socket), {
      clock: options.clock,
      ms: options.timeoutMs,
      signal: options.signal,
      onTimeout: () => new JobError('ssh_timeout', `no TCP connection within ${options.timeoutMs} ms`, facts),
      onAbort: () => new JobError('cancelled', 'called off while connecting', facts),
    })
    return writeTogether(socket)
  } catch (error) {
    socket.destroy()
    throw tcpFailure(error, facts)
  }
}
