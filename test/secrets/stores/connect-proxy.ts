import http from 'node:http'
import net, { type AddressInfo } from 'node:net'

// The proxy of a company: everything goes through CONNECT, and names that only it knows lead where a test says.

export type ConnectProxy = {
  url: string
  /** `HOST:PORT` as they were asked for. */
  asked(): readonly string[]
  close(): Promise<void>
}

/** `ports`: by host name, of 127.0.0.1. */
export const startConnectProxy = async (ports: Readonly<Record<string, number>>): Promise<ConnectProxy> => {
  const asked: string[] = []
  const sockets = new Set<net.Socket>()
  const server = http.createServer((_request, response) => response.writeHead(405).end())
  server.on('connect', (request, client: net.Socket) => {
    asked.push(request.url ?? '')
    const port = ports[(request.url ?? '').split(':', 1)[0] ?? '']
    if (port === undefined) return client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n')
    const there = net.connect(port, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection Established\r\n\r\n')
      there.pipe(client).pipe(there)
    })
    for (const socket of [client, there]) {
      sockets.add(socket)
      socket.on('error', () => socket.destroy())
    }
    return undefined
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: () => asked,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of sockets) socket.destroy()
      server.closeAllConnections()
      await closed
    },
  }
}
