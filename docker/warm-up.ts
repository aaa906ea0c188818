// Run once while the image is built, with NODE_COMPILE_CACHE set: all that a verb imports, now or at the first read of a
// secret, is compiled and kept.
import '../src/connector/connector.ts'
import '../src/connector/guard-check.ts'
import '../src/connector/uninstall.ts'
import '../src/host/host-program.ts'
import '../src/standalone/config.ts'
import '../src/standalone/standalone.ts'
import './healthcheck.ts'
import '@aws-sdk/client-secrets-manager'
import '@azure/identity'
import '@azure/keyvault-secrets'
import '@google-cloud/secret-manager'
import 'yaml'
