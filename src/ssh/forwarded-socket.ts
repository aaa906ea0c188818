import { Duplex } from 'node:stream'
import type { ClientChannel } from 'ssh2'

/**
 * A channel through a jump host as what everything above expects of a socket: destroyed is destroyed at once, and `close`
 * comes when it is over, whoever ended it. ssh2's own channel says neither (1.17.0). An end is answered with ours, as a
 * TCP socket does by default: a jump host that is told by the server's end only that it has ended waits for that.
 */
export const asSocket = (channel: ClientChannel): Duplex => {
  const socket = new Duplex({
    allowHalfOpen: false,
    read: () => void channel.resume(),
    write: (chunk, encoding, done) => void channel.write(chunk, encoding, () => done()),
    final: (done) => void channel.end(() => done()),
    destroy: (error, done) => {
      channel.close()
      done(error)
    },
  })
  socket.on('error', () => undefined)
  channel.on('error', () => undefined)
  channel.on('data', (chunk: Buffer) => {
    if (!socket.push(chunk)) channel.pause()
  })
  channel.on('end', () => void socket.push(null))
  channel.on('close', () => void socket.destroy())
  channel.stderr.resume()
  return socket
}
