import type { AddressInfo } from 'node:net'
import ssh2 from 'ssh2'
import { keygen } from '../hosts/openssh.ts'

// A server of somebody else's. It lets everybody in, does as it is told, and remembers what it was given.

export type Impostor = {
  port: number
  /** Of the key that it shows, `type base64`. */
  hostKey: string
  connections(): number
  /** Every request to log in, of whatever kind: `method`, and `method signed` where it carries a signature. */
  logins(): string[]
  /** What came on the stdin of commands. */
  taken(): string
  /** From now on it proves another key, and asks all who are connected to agree on new ones. */
  changeKey(): Promise<void>
  close(): Promise<void>
}

/** ssh2 has no way to change a server's key under a connection: its own table of them is what an exchange looks at. */
type Inside = { _protocol: { _hostKeys: Record<string, unknown> } }

export const startImpostor = async (): Promise<Impostor> => {
  const key = await keygen()
  const logins: string[] = []
  const connections: ssh2.Connection[] = []
  let taken = ''
  const server = new ssh2.Server({ hostKeys: [key.privateKey] }, (connection) => {
    connections.push(connection)
    connection.on('error', () => undefined)
    connection.on('authentication', (request) => {
      const signed = 'signature' in request && request.signature !== undefined
      logins.push(`${request.method}${signed ? ' signed' : ''}`)
      request.accept()
    })
    connection.on('session', (acceptSession) => {
      acceptSession().on('exec', (acceptCommand, _reject, { command }) => {
        const channel = acceptCommand()
        channel.on('end', () => {
          if (command === 'wait') return
          channel.exit(0)
          channel.end()
        })
        channel.on('data', (chunk: Buffer) => {
          taken += chunk.toString('latin1')
        })
      })
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
  return {
    port: (server.address() as AddressInfo).port,
    hostKey: key.publicKey,
    connections: () => connections.length,
    logins: () => logins,
    taken: () => taken,
    changeKey: async () => {
      const other = ssh2.utils.parseKey((await keygen()).privateKey)
      for (const connection of connections) {
        const inside = connection as unknown as Inside
        inside._protocol._hostKeys['ssh-ed25519'] = other
        connection.rekey()
      }
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const connection of connections) connection.end()
      }),
  }
}
