// Serves `start(port)` from WORKERS processes that share one port.
import cluster from 'node:cluster';

export async function serve(start) {
  if (!cluster.isPrimary) {
    await start(Number(process.env.PORT));
    return;
  }
  for (let index = 0; index < Number(process.env.WORKERS); index += 1) cluster.fork();
  // Half a server would be measured as a whole one.
  cluster.on('exit', () => process.exit(1));
}
