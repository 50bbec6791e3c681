// Starts the dashboard: shell, feeds, pages.

import { register } from './actions.js';
import { botActions } from './bot-actions.js';
import { mountShell } from './components/shell.js';
import { connect, followBots, followServers, followStorage } from './feeds.js';
import './keys.js';
import { go, route, start } from './router.js';

route('bots', /^\/bots\/?$/, () => import('./pages/bots.js'));
route('chat', /^\/chat(?:\/([^/]+))?\/?$/, () => import('./pages/chat.js'));
route('tree', /^\/supervision\/?$/, () => import('./pages/tree.js'));

register(botActions);
const main = mountShell(document.getElementById('root'), go);
followBots();
followServers();
followStorage();
connect();
start(main);
