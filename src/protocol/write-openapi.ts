/** `npm run openapi`: writes the document that a test holds against the schemas. */
import { writeFileSync } from 'node:fs'
import { connectorProtocolText, DOCUMENT_PATH } from './openapi.ts'

writeFileSync(DOCUMENT_PATH, connectorProtocolText())
