import type { AddressInfo } from 'node:net'
import net from 'node:net'

// Things that answer on a port and are not a working sshd.

export type Stranger = { port: number; connections: () => number; close(): Promise<void> }

/** Does with each connection what `greet` says. */
export const startStranger = async (greet: (socket: net.Socket) => void): Promise<Stranger> => {
  const sockets = new Set<net.Socket>()
  let count = 0
  const server = net.createServer((socket) => {
    count++
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    greet(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => count,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}

export type Relay = Stranger & {
  /** From now on nothing passes any more, and nobody is told. */
  freeze(): void
  /** Ends all connections, as a crashed router or a killed sshd does. */
  cut(how: 'reset' | 'end'): void
}

/** Passes everything on to a real server until it is told not to. */
export const startRelay = async (port: number): Promise<Relay> => {
  const pairs = new Set<[net.Socket, net.Socket]>()
  let frozen = false
  const pass = (from: net.Socket, to: net.Socket): void => {
    from.on('data', (chunk) => {
      if (!frozen) to.write(chunk)
    })
    from.on('close', () => {
      if (!frozen) to.destroy()
    })
  }
  const stranger = await startStranger((near) => {
    const far = net.connect({ host: '127.0.0.1', port, noDelay: true })
    far.on('error', () => undefined)
    pairs.add([near, far])
    pass(near, far)
    pass(far, near)
  })
  return {
    ...stranger,
    freeze: () => {
      frozen = true
    },
    cut: (how) => {
      for (const [near, far] of pairs) {
        if (how === 'reset') near.resetAndDestroy()
        else near.end()
        far.destroy()
      }
    },
    close: async () => {
      for (const [, far] of pairs) far.destroy()
      await stranger.close()
    },
  }
}
